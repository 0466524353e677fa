# SPDX-License-Identifier: Apache-2.0
"""The ways to mix frames over time. A new one is one file, one row here, one row in the shared streaming test."""

from headrace.mixers.chunked import ChunkedAttention
from headrace.mixers.deformable import DeformableConvolution
from headrace.mixers.full import FullAttention
from headrace.mixers.llsa import LowLatencyStreamingAttention
from headrace.mixers.masked import MaskedAttention
from headrace.mixers.mixer import Mixer, Shape
from headrace.mixers.none import NoMixer
from headrace.mixers.sa import StreamingAttention
from headrace.mixers.summary import SUMMARIES, SummaryMixing

MIXERS: dict[str, type[Mixer]] = {
    "full": FullAttention,
    "masked": MaskedAttention,
    "sa": StreamingAttention,
    "llsa": LowLatencyStreamingAttention,
    "chunked": ChunkedAttention,
    "deformable": DeformableConvolution,
    "none": NoMixer,
    "summary": SummaryMixing,
}

__all__ = ["MIXERS", "SUMMARIES", "Mixer", "Shape"]

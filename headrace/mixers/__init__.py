# SPDX-License-Identifier: Apache-2.0
"""The ways to mix frames over time. A new one is one file, one row here, one row in the shared streaming test."""

from headrace.mixers.attention import Attention
from headrace.mixers.full import FullAttention
from headrace.mixers.llsa import LowLatencyStreamingAttention
from headrace.mixers.masked import MaskedAttention
from headrace.mixers.sa import StreamingAttention

MIXERS: dict[str, type[Attention]] = {
    "full": FullAttention,
    "masked": MaskedAttention,
    "sa": StreamingAttention,
    "llsa": LowLatencyStreamingAttention,
}

__all__ = ["MIXERS", "Attention"]

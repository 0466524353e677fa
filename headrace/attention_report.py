# SPDX-License-Identifier: Apache-2.0
"""The attention maps of an encoder over recordings: what was measured, and on what."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from headrace import recordings
from headrace.attention_map import FARTHEST, AttentionMeter, LayerMap
from headrace.config import EncoderConfig
from headrace.encoder import SpeechEncoder
from headrace.reach import to_values

DIGITS = 6


@dataclass(frozen=True)
class AttentionReport:
    """See ``report_on``.

    frame_ms: from one frame to the next.
    within: frames to either side of the diagonal whose share the table shows.
    most_seconds: heard of each file; num_cut of num_files were longer.
    left_out: why files were not heard.
    """

    config: EncoderConfig
    frame_ms: float
    within: int
    most_seconds: float
    num_files: int
    num_cut: int
    num_frames: int
    left_out: list[str]
    layers: list[LayerMap]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        plain = ("frame_ms", "within", "most_seconds", "num_files", "num_cut", "num_frames", "left_out")
        return {
            "encoder": self.config.to_dict(),
            **{name: getattr(self, name) for name in plain},
            "layers": [self._layer(layer) for layer in self.layers],
        }

    def _layer(self, layer: LayerMap) -> dict[str, Any]:
        return {
            "layer": layer.layer,
            "reach": to_values(layer.reach),
            "share_within": layer.shares[self.within],
            "even_share_within": layer.even_shares[self.within],
            "shares": _rounded(layer.shares),
            "even_shares": _rounded(layer.even_shares),
            "first_offset": layer.first_offset,
            "mean_by_offset": _rounded(layer.by_offset),
            "mean_rows": [_rounded(row) for row in layer.rows],
        }


def _rounded(values: list[float]) -> list[float]:
    return [round(value, DIGITS) for value in values]


def report_on(
    encoder: SpeechEncoder,
    paths: Sequence[Path],
    within: int,
    most_seconds: float,
    on_left_out: Callable[[str], None],
    on_progress: Callable[[str], None],
) -> AttentionReport:
    """Measure where attention goes over recordings, each frame counting once. Bad files are left out.

    Args:
        within: frames to either side of the diagonal.
        most_seconds: of each file the start is heard, up to that.
        on_left_out, on_progress: told a line, of each file that is left out and of how far it all is.

    Raises:
        ValueError: an encoder without attention or in training mode; an argument out of range; no file is left.
    """
    frontend, rate = encoder.frontend, encoder.config.sample_rate
    if within < 0:
        raise ValueError(f"within must be 0 or more frames, got {within}.")
    if not frontend.window_samples <= most_seconds * rate < math.inf:
        raise ValueError(
            f"most_seconds must be a number that holds a frame, at least {frontend.window_samples / rate:g} s, got "
            f"{most_seconds:g}; 20 is usual."
        )
    meter = AttentionMeter(encoder, max(FARTHEST, within))
    left_out, num_cut = [], 0
    for path in recordings.counted(paths, on_progress):
        try:
            samples, is_cut = recordings.read(path, rate, frontend.window_samples, int(most_seconds * rate))
        except ValueError as error:
            left_out.append(str(error))
            on_left_out(str(error))
            continue
        num_cut += is_cut
        meter.add(_waveform(encoder, torch.from_numpy(samples)))
    if len(left_out) == len(paths):
        raise ValueError(f"no audio is left of {len(paths)} files; expected .flac or .wav, {rate} Hz, one channel.")
    return AttentionReport(
        config=encoder.config,
        frame_ms=1000 * frontend.stride_samples / rate,
        within=within,
        most_seconds=most_seconds,
        num_files=len(paths) - len(left_out),
        num_cut=num_cut,
        num_frames=meter.num_frames,
        left_out=left_out,
        layers=meter.layers(),
    )


def _waveform(encoder: SpeechEncoder, samples: torch.Tensor) -> torch.Tensor:
    """Samples [n] as the encoder takes them, [1, n]."""
    if encoder.config.normalize_waveform:
        samples = F.layer_norm(samples, samples.shape)
    return samples[None].to(next(encoder.parameters()))

# SPDX-License-Identifier: Apache-2.0
"""The ways from a waveform to frames. A new one is a ``Frontend``, one row here, one row in the shared live test."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from headrace.frontend import Frontend, WaveformFrontend
from headrace.log_mel import LogMelFrontend

if TYPE_CHECKING:
    from headrace.config import EncoderConfig

FRONTENDS: dict[str, Callable[[EncoderConfig], Frontend]] = {
    "waveform": lambda config: WaveformFrontend(config.conv_layers, config.conv_norm, config.conv_bias),
    "log_mel": lambda config: LogMelFrontend(config.num_mels, config.mel_channels, config.sample_rate),
}

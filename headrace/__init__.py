# SPDX-License-Identifier: Apache-2.0
"""Self-supervised speech encoders that run live."""

from headrace import ops
from headrace.checkpoint import load
from headrace.config import EncoderConfig
from headrace.encoder import EncoderOutput, SpeechEncoder
from headrace.reach import Band, Blocks, Everything

__version__ = "0.1.0"

__all__ = ["Band", "Blocks", "EncoderConfig", "EncoderOutput", "Everything", "SpeechEncoder", "load", "ops"]

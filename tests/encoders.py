# SPDX-License-Identifier: Apache-2.0
"""Small encoders that several tests build."""

import torch

from headrace import EncoderConfig, SpeechEncoder

SMALL = {
    "num_layers": 3,
    "embed_dim": 16,
    "ffn_dim": 32,
    "num_heads": 2,
    "conv_layers": [[16, 10, 5], [16, 8, 8], [16, 8, 8]],  # 320 samples a frame, as wav2vec 2.0
    "position_kernel": 6,
    "position_groups": 2,
    "look_ahead": 2,
    "look_back": 7,
}

CONFORMER = {"block": "conformer", "conv_kernel": 5}
LOG_MEL = {"frontend": "log_mel", "num_mels": 20, "mel_channels": [6, 4]}  # 640 samples a frame

# Every mixer, with every kind of position that it takes, before and after the norm.
CONFIGS = {
    "full": {"mixer": "full"},
    "full conv": {"mixer": "full", "positions": "conv"},
    "full group norm": {"mixer": "full", "positions": "conv", "conv_norm": "group_norm"},
    "masked": {"mixer": "masked"},
    "masked causal_conv": {"mixer": "masked", "positions": "causal_conv", "norm_first": True},
    "sa": {"mixer": "sa"},
    "sa per layer": {"mixer": "sa", "look_ahead": [0, 3, 1], "norm_first": True},
    "sa causal_conv": {"mixer": "sa", "positions": "causal_conv"},
    "sa unbounded": {"mixer": "sa", "look_back": None},
    "llsa": {"mixer": "llsa"},
    "llsa norm first": {"mixer": "llsa", "norm_first": True},
    "llsa causal_conv": {"mixer": "llsa", "positions": "causal_conv"},
    "llsa hop 4": {"mixer": "llsa", "hop": 4},
    "llsa hop 3 no look-ahead": {"mixer": "llsa", "hop": 3, "look_ahead": 0},
    "chunked": {"mixer": "chunked", "hop": 4, "look_back": 8},
    "chunked unbounded": {"mixer": "chunked", "hop": 3, "look_back": None},
    "deformable": {"mixer": "deformable", "hop": 4},
    "summary": {"mixer": "summary", "hop": 3, "look_back": None},
    "summary lite": {"mixer": "summary", "summary": "lite", "hop": 4, "look_back": 8, "norm_first": True},
    "conformer full": {**CONFORMER, "mixer": "full"},
    "conformer chunked": {**CONFORMER, "mixer": "chunked", "hop": 4, "look_back": 8},
    "conformer chunked relative": {**CONFORMER, "mixer": "chunked", "hop": 4, "look_back": 8, "positions": "relative"},
    "conformer chunked causal_conv": {**CONFORMER, "mixer": "chunked", "hop": 2, "positions": "causal_conv"},
    "conformer deformable": {**CONFORMER, "mixer": "deformable", "hop": 6},
    "conformer none": {**CONFORMER, "mixer": "none", "hop": 6},
    "conformer none, chunk of 1": {**CONFORMER, "mixer": "none", "hop": 1},
    "conformer chunked log_mel": {**CONFORMER, **LOG_MEL, "mixer": "chunked", "hop": 4, "look_back": 8},
    "conformer none log_mel": {**CONFORMER, **LOG_MEL, "mixer": "none", "hop": 2},
    "conformer summary": {**CONFORMER, "mixer": "summary", "hop": 4, "look_back": 8},
    "conformer summary full": {**CONFORMER, "mixer": "summary", "summary": "full", "hop": 3, "look_back": 7},
    "conformer summary unbounded": {**CONFORMER, "mixer": "summary", "hop": 4, "look_back": None},
}


def small_encoder(dtype=torch.float64, seed=0, **changes) -> SpeechEncoder:
    """A small encoder in eval mode with weights that are not at their initial values."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        encoder = SpeechEncoder(EncoderConfig(**{**SMALL, **changes})).to(dtype).eval()
        for parameter in encoder.parameters():
            parameter.data += 0.2 * torch.randn_like(parameter)
    return encoder

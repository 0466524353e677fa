# SPDX-License-Identifier: Apache-2.0
"""At 12 layers of 512 the encoders are as large as the paper's (arXiv 2601.19960, table 1)."""

import pytest
import torch

from headrace import EncoderConfig
from headrace.encoder import ContextEncoder


def parameters(mixer):
    config = EncoderConfig(
        mixer=mixer, block="conformer", positions="relative" if mixer == "chunked" else "none", hop=16, num_layers=12,
        embed_dim=512, ffn_dim=2048, num_heads=8, conv_kernel=31,
    )  # fmt: skip
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in ContextEncoder(config).parameters())


@pytest.mark.parametrize(("mixer", "millions"), [("none", 15.76), ("deformable", 13.61)])
def test_attention_free_encoders_have_so_many_parameters_fewer(mixer, millions):
    assert (parameters("chunked") - parameters(mixer)) / 1e6 == pytest.approx(millions, abs=0.005)

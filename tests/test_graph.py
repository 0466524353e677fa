# SPDX-License-Identifier: Apache-2.0
"""A tick as a CUDA graph gives the frames of a tick. The first test needs a GPU: `make gpu-check`."""

import pytest
import torch

from encoders import CONFIGS, small_encoder
from headrace.graph import GraphedTick


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["llsa", "llsa hop 4", "llsa causal_conv", "sa", "sa per layer"])
def test_graphed_ticks_are_ticks(name):
    encoder = small_encoder(torch.float32, **CONFIGS[name]).cuda()
    plain, graphed = encoder.init_state(2), encoder.init_state(2)
    tick = GraphedTick(encoder, graphed)
    for _ in range(20):
        samples = torch.randn(2, encoder.clock(plain).tick_samples, device="cuda")
        (expected,), exists = encoder.tick(samples, plain)
        (got,), also = tick(samples)
        assert torch.equal(exists, also)
        torch.testing.assert_close(got[exists], expected[exists], rtol=1e-4, atol=1e-4)


def test_an_encoder_on_the_cpu_is_refused():
    encoder = small_encoder(torch.float32, mixer="llsa")
    with pytest.raises(ValueError, match=r"needs an encoder on a GPU, got cpu; encoder.cuda\(\) first"):
        GraphedTick(encoder, encoder.init_state())

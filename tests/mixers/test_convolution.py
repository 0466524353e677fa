# SPDX-License-Identifier: Apache-2.0
"""The conformer's convolution is centred, and in chunks it sees nothing behind the chunk's end: frame by frame."""

import pytest
import torch
from torch.nn import functional as F

from headrace import Blocks, EncoderConfig, Everything
from headrace.conformer import ConformerBlock
from headrace.convolution import ConvolutionModule

C = 6


def literal(module, x, reach):
    """x [T, C], all of whose frames exist."""
    gated = F.glu(module.gate(module.norm(x)), dim=-1)
    radius, out = module.radius, []
    for t in range(len(x)):
        seen = module.neighbours(reach)
        y = module.depthwise.bias
        for s in range(t - radius, t + radius + 1):
            if seen.first(t) <= s <= seen.last(t) and s < len(x):
                y = y + module.depthwise.weight[:, 0, s - t + radius] * gated[s]
        out.append(module.out(F.silu(module.depthwise_norm(y))))
    return torch.stack(out)


@pytest.mark.parametrize("mixer", ["chunked", "deformable", "none", "summary"])
def test_a_block_without_lengths_sees_no_rows_that_hold_no_frame(mixer):
    config = EncoderConfig(mixer=mixer, block="conformer", embed_dim=8, ffn_dim=8, num_heads=2, hop=4, conv_kernel=5)
    block, x = ConformerBlock(config).double().eval(), torch.randn(1, 10, 8, dtype=torch.float64)
    without = block(x, None, config.reaches[0], None).flatten(1, 2)[:, :10]
    with_lengths = block(x, torch.tensor([10]), config.reaches[0], None).flatten(1, 2)[:, :10]
    torch.testing.assert_close(without, with_lengths)


@pytest.mark.parametrize("kernel", [1, 3, 9])
@pytest.mark.parametrize("lengths", [None, [11, 7]], ids=["whole", "ragged"])
@pytest.mark.parametrize(
    "reach", [Everything(), *(Blocks(0, 0, hop, per_block=True) for hop in (1, 2, 4, 5, 20))], ids=str
)
def test_it_is_the_formula_forward_and_in_every_gradient(reach, lengths, kernel):
    module = ConvolutionModule(C, kernel).double()
    x = torch.randn(2, 11, C, dtype=torch.float64, requires_grad=True)
    ends = [11, 11] if lengths is None else lengths
    rows = x
    if isinstance(reach, Blocks):
        rows = F.pad(x, (0, 0, 0, -11 % reach.hop)).unflatten(1, (-1, reach.hop))
        lengths = ends
    got = module(rows, None if lengths is None else torch.tensor(lengths), reach).flatten(1, -2)
    results = []
    expected = [literal(module, x[n, :end], reach) for n, end in enumerate(ends)]
    for items in ([got[n, :end] for n, end in enumerate(ends)], expected):
        total = sum((y * torch.arange(y.numel()).view_as(y).sin()).sum() for y in items)
        results.append([*items, *torch.autograd.grad(total, [x, *module.parameters()], retain_graph=True)])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=1e-10)

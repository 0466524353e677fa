# SPDX-License-Identifier: Apache-2.0
"""The deformable convolution is its formula, one place of one frame at a time, forward and in every gradient."""

import math

import pytest
import torch
from torch.nn import functional as F

from headrace.mixers import Shape
from headrace.mixers.deformable import EDGE, KERNEL, DeformableConvolution, by_fetching, by_products
from headrace.reach import Blocks, Everything


def mixer_of(embed_dim=12, num_heads=3, dtype=torch.float64):
    mixer = DeformableConvolution(Shape(embed_dim, num_heads)).to(dtype)
    for parameter in mixer.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return mixer


def literal_chunk(mixer, x, farthest):
    """One chunk x [L, C], which knows nothing but itself: the formula of arXiv 2601.19960, as scalars and vectors."""
    length, width, groups = len(x), x.shape[1], mixer.groups
    size = width // groups

    def frame(s):
        return x[s] if 0 <= s < length else torch.zeros(width, dtype=x.dtype)

    out = []
    for t in range(length):
        y = mixer.conv.bias
        parts = [torch.zeros(size, dtype=x.dtype) for _ in range(groups)]
        for g in range(groups):
            mine = slice(g * size, (g + 1) * size)
            for k in range(KERNEL):
                net = mixer.offsets.weight[g * KERNEL + k]  # [size, KERNEL]
                raw = sum(frame(t + j - 2)[mine] @ net[:, j] for j in range(KERNEL))
                place = t + k - 2 + farthest * torch.tanh(raw)
                low = math.floor(place.item())
                share = place - low
                value = (1 - share) * frame(low)[mine] + share * frame(low + 1)[mine]
                parts[g] = parts[g] + mixer.conv.weight[mine, :, k] @ value
        out.append(F.silu(mixer.norm(y + torch.cat(parts))))
    return torch.stack(out)


CASES = {
    "one chunk": (Blocks(0, 0, 5, per_block=True), 5, None),
    "last chunk short": (Blocks(0, 8, 4, per_block=True), 10, None),
    "chunk longer than the utterance": (Blocks(0, None, 9, per_block=True), 3, None),
    "chunk of one frame": (Blocks(0, 0, 1, per_block=True), 3, None),
    "ragged": (Blocks(0, 4, 4, per_block=True), 11, [11, 6]),
    "everything": (Everything(), 7, None),
    "everything, ragged": (Everything(), 7, [7, 4]),
}


@pytest.mark.parametrize(("reach", "num_frames", "lengths"), CASES.values(), ids=CASES)
def test_it_is_the_formula_forward_and_in_every_gradient(reach, num_frames, lengths):
    mixer = mixer_of()
    x = torch.randn(2, num_frames, 12, dtype=torch.float64, requires_grad=True)
    ends = [num_frames] * 2 if lengths is None else lengths
    direction = torch.randn(2, num_frames, 12, dtype=torch.float64)

    got = mixer(x, None if lengths is None else torch.tensor(lengths), reach)
    got = got.flatten(1, -2)[:, :num_frames]
    expected = torch.zeros_like(got)
    hop = reach.hop if isinstance(reach, Blocks) else num_frames
    for n, end in enumerate(ends):
        for start in range(0, end, hop):
            chunk = x[n, start : min(start + hop, end)]
            farthest = hop if isinstance(reach, Blocks) else end
            expected[n, start : start + len(chunk)] = literal_chunk(mixer, chunk, farthest)
    results = []
    for y in (got, expected):
        total = sum((y[n, :end] * direction[n, :end]).sum() for n, end in enumerate(ends))
        results.append([y[n, :end] for n, end in enumerate(ends)])
        results[-1] += torch.autograd.grad(total, [x, *mixer.parameters()], retain_graph=True)
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("length", [1, 2, 5, 70])
def test_both_ways_to_compute_it_are_the_same(length):
    inside = torch.randn(2, 3, length, 4, dtype=torch.float64, requires_grad=True)
    x = F.pad(inside, (0, 0, EDGE, EDGE))
    places = (torch.randn(2, 3, length, KERNEL, dtype=torch.float64) * length).requires_grad_()
    weight = torch.randn(2, KERNEL * 4, 4, dtype=torch.float64, requires_grad=True)
    results = []
    for way in (by_products, by_fetching):
        y = way(x, places, weight)
        results.append([y, *torch.autograd.grad(y.square().sum(), [inside, places, weight], retain_graph=True)])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("reach", [Blocks(0, 0, 6, per_block=True), Everything()], ids=["chunks", "everything"])
def test_places_can_leave_the_frames_that_they_start_on(reach):
    torch.manual_seed(1)
    mixer = DeformableConvolution(Shape(8, 2)).double()
    assert not mixer.offsets.weight.any()
    x = torch.randn(1, 6, 8, dtype=torch.float64)
    mixer(x, None, reach).square().sum().backward()
    assert mixer.offsets.weight.grad.abs().max() > 1e-6


def test_at_the_start_it_is_a_convolution_of_each_chunk_alone():
    mixer = DeformableConvolution(Shape(8, 2)).double()
    x = torch.randn(2, 12, 8, dtype=torch.float64)
    got = mixer(x, None, Blocks(0, 0, 6, per_block=True))
    chunks = F.conv1d(x.view(4, 6, 8).mT, mixer.conv.weight, mixer.conv.bias, padding=2, groups=2).mT
    torch.testing.assert_close(got.view(4, 6, 8), F.silu(mixer.norm(chunks)))


@pytest.mark.parametrize("autocast", [False, True], ids=["bfloat16", "autocast"])
def test_places_far_into_a_chunk_are_exact_in_16_bits(autocast):
    mixer = mixer_of().bfloat16().float()
    x = torch.randn(1, 600, 12).bfloat16()
    exact = mixer(x.float(), None, Everything())
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        got = (mixer if autocast else mixer.bfloat16())(x.float() if autocast else x, None, Everything())
    assert (exact - got.float()).norm() < 0.02 * exact.norm()

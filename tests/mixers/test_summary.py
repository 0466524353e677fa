# SPDX-License-Identifier: Apache-2.0
"""SummaryMixing is its formula, one frame at a time, with ragged lengths, chunks and left context."""

import pytest
import torch
from torch.nn import functional as F

from headrace.mixers import SUMMARIES, Shape
from headrace.mixers.summary import SummaryMixing
from headrace.reach import Blocks, Everything

C, H = 8, 2


def head_layer(layer, x):
    """[C] -> [C]: each head's features by themselves."""
    size = C // H
    return torch.cat([x[h * size : (h + 1) * size] @ layer.weight[h] for h in range(H)]) + layer.bias


def network(layers, x):
    return F.gelu(head_layer(layers.fc2, F.gelu(head_layer(layers.fc1, x))))


def literal(mixer, x, reach):
    """x [T, C], all of whose frames exist: arXiv 2307.07421 and 2409.07165, frame by frame."""
    out = []
    for t in range(len(x)):
        if isinstance(reach, Everything):
            seen = range(len(x))
        else:
            start = t // reach.hop * reach.hop
            first = 0 if reach.look_back is None else max(0, start - reach.look_back)
            seen = range(first, min(len(x), start + reach.hop))
        if mixer.summary == "fast":
            both = [F.gelu(mixer.local_and_summary.weight @ x[s] + mixer.local_and_summary.bias) for s in seen]
            local = F.gelu(mixer.local_and_summary.weight @ x[t] + mixer.local_and_summary.bias)[:C]
            mean = sum(one[C:] for one in both) / len(both)
        else:
            local = network(mixer.local_network, x[t]) if mixer.summary == "full" else None
            mean = sum(network(mixer.summary_network, x[s]) for s in seen) / len(seen)
        if local is None:
            out.append(mean)
        else:
            out.append(F.gelu(mixer.combine.weight @ torch.cat([local, mean]) + mixer.combine.bias))
    return torch.stack(out)


REACHES = {
    "everything": Everything(),
    "chunks alone": Blocks(0, 0, 4, per_block=True),
    "left context of two chunks": Blocks(0, 8, 4, per_block=True),
    "left context of a chunk and a half": Blocks(0, 6, 4, per_block=True),
    "left context of less than a chunk": Blocks(0, 3, 5, per_block=True),
    "all left context": Blocks(0, None, 3, per_block=True),
    "chunk longer than the utterance": Blocks(0, 2, 40, per_block=True),
    "chunk of one frame": Blocks(0, 5, 1, per_block=True),
}


@pytest.mark.parametrize("summary", SUMMARIES)
@pytest.mark.parametrize("lengths", [None, [13, 6, 1]], ids=["whole", "ragged"])
@pytest.mark.parametrize("reach", REACHES.values(), ids=REACHES)
def test_it_is_the_formula_forward_and_in_every_gradient(reach, lengths, summary):
    mixer = SummaryMixing(Shape(C, H, summary=summary)).double()
    x = torch.randn(3, 13, C, dtype=torch.float64, requires_grad=True)
    ends = [13] * 3 if lengths is None else lengths
    got = mixer(x, None if lengths is None else torch.tensor(lengths), reach).flatten(1, -2)
    results = []
    expected = [literal(mixer, x[n, :end], reach) for n, end in enumerate(ends)]
    for items in ([got[n, :end] for n, end in enumerate(ends)], expected):
        total = sum((y * torch.arange(y.numel()).view_as(y).sin()).sum() for y in items)
        results.append([*items, *torch.autograd.grad(total, [x, *mixer.parameters()], retain_graph=True)])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, atol=1e-11, rtol=1e-11)


@pytest.mark.parametrize("look_back", [None, 8], ids=["all left context", "two chunks"])
def test_what_is_out_of_reach_leaves_no_trace(look_back):
    mixer = SummaryMixing(Shape(C, H))
    x = torch.randn(1, 40, C)
    changed = x.clone()
    changed[:, :8] = 1e6
    same = (mixer(x, None, r := Blocks(0, look_back, 4, per_block=True)) == mixer(changed, None, r)).flatten(1, 2)
    assert same[:, 16:].all() == (look_back is not None)


def test_an_hour_of_frames_has_the_mean_of_an_hour():
    mixer = SummaryMixing(Shape(C, H, summary="lite"))
    x = torch.randn(1, 90_000, C)
    with torch.no_grad():
        got = mixer(x, None, Blocks(0, None, 16, per_block=True))[0, -1, -1]
        exact = mixer.double()(x.double(), None, Everything())[0, -1]
    torch.testing.assert_close(got.double(), exact, atol=1e-7, rtol=1e-6)


def test_a_look_back_that_counts_from_each_frame_is_refused():
    mixer = SummaryMixing(Shape(C, H))
    with pytest.raises(ValueError, match=r"SummaryMixing runs in chunks, .* got Blocks\(look_ahead=0, look_back=4"):
        mixer(torch.zeros(1, 8, C), None, Blocks(0, 4, 4))

# SPDX-License-Identifier: Apache-2.0
"""Transformer-XL's distances on the kernels' block path are its formula, one query at a time."""

import pytest
import torch

from headrace import Blocks, Everything, ops
from headrace.mixers import Shape
from headrace.mixers.chunked import ChunkedAttention
from headrace.mixers.relative import sinusoids

C, H = 12, 3


def mixer_of():
    mixer = ChunkedAttention(Shape(C, H, positions="relative")).double()
    for parameter in mixer.parameters():
        parameter.data += 0.5 * torch.randn_like(parameter)
    return mixer


def literal(mixer, x, reach):
    """x [T, C], all of whose frames exist: arXiv 1901.02860, section 3.3, with distances that have no sign."""
    q, k, v = (linear(x).unflatten(-1, (H, -1)) for linear in (mixer.q_proj, mixer.k_proj, mixer.v_proj))
    relative, out = mixer.relative, []
    for t in range(len(x)):
        seen = [s for s in range(len(x)) if reach.first(t) <= s <= (len(x) if reach.last(t) is None else reach.last(t))]
        heads = []
        for h in range(H):
            scores = []
            for s in seen:
                r = relative.distance_proj(sinusoids(torch.tensor(abs(t - s)), C)).unflatten(-1, (H, -1))[h]
                content = (q[t, h] + relative.content_bias[h]) @ k[s, h]
                scores.append((content + (q[t, h] + relative.distance_bias[h]) @ r) / (C // H) ** 0.5)
            weights = torch.stack(scores).softmax(0)
            heads.append(sum(weight * v[s, h] for weight, s in zip(weights, seen, strict=True)))
        out.append(mixer.out_proj(torch.cat(heads)))
    return torch.stack(out)


REACHES = {
    "chunks alone": Blocks(0, 0, 4, per_block=True),
    "left context": Blocks(0, 6, 4, per_block=True),
    "all left context": Blocks(0, None, 3, per_block=True),
    "chunk longer than the utterance": Blocks(0, 0, 30, per_block=True),
    "everything": Everything(),
}


@pytest.mark.parametrize("backend", ["native", "torch"])
@pytest.mark.parametrize("lengths", [None, [10, 5]], ids=["whole", "ragged"])
@pytest.mark.parametrize("reach", REACHES.values(), ids=REACHES)
def test_it_is_the_formula_forward_and_in_every_gradient(reach, lengths, backend):
    if backend == "native" and not ops.native.STATUS.is_loaded:
        pytest.skip(f"no native kernels: {ops.native.STATUS.reason}")
    mixer = mixer_of()
    x = torch.randn(2, 10, C, dtype=torch.float64, requires_grad=True)
    ends = [10, 10] if lengths is None else lengths
    with ops.backend(backend):
        got = mixer(x, None if lengths is None else torch.tensor(lengths), reach).flatten(1, -2)
        results = []
        for items in (
            [got[n, :end] for n, end in enumerate(ends)],
            [literal(mixer, x[n, :end], reach) for n, end in enumerate(ends)],
        ):
            total = sum((y * torch.arange(y.numel()).view_as(y).cos()).sum() for y in items)
            results.append([*items, *torch.autograd.grad(total, [x, *mixer.parameters()], retain_graph=True)])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, atol=1e-10, rtol=1e-9)


def test_distances_are_projected_once_when_live_and_anew_when_weights_change():
    mixer = mixer_of().eval()
    relative, reach = mixer.relative, Blocks(0, 4, 4, per_block=True)
    q = torch.randn(1, relative.content_bias.shape[0], 2, 4, relative.content_bias.shape[1], dtype=torch.float64)

    def bias():
        with torch.no_grad():
            return relative(q, reach, live=True)[1]

    before = bias()
    weight, calls = relative.distance_proj.weight, []
    hook = relative.distance_proj.register_forward_hook(lambda *_: calls.append(1))
    assert torch.equal(bias(), before) and not calls
    hook.remove()
    with torch.no_grad():
        weight.mul_(2)
    twice = bias()
    assert not torch.equal(twice, before)
    weight.data.mul_(2)  # as fairseq's Adam does: torch is not told
    relative.train()
    relative.eval()
    assert not torch.equal(bias(), twice)


def test_of_whole_utterances_nothing_is_kept_that_an_optimizer_could_make_stale():
    mixer = mixer_of().eval()
    with torch.no_grad():
        for reach in (Everything(), Blocks(0, None, 4, per_block=True)):
            for frames in (8, 9, 10):
                x = torch.randn(1, frames, C, dtype=torch.float64)
                before = mixer(x, None, reach)
                mixer.relative.distance_proj.weight.data.add_(1)
                assert not torch.equal(mixer(x, None, reach), before)
    assert not mixer.relative._kept

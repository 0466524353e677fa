# SPDX-License-Identifier: Apache-2.0
"""A relative bias for each query, as Transformer-XL attention needs, in ``llsa`` and ``llsa_step``: both backends."""

import dataclasses
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attention_problem import BACKWARD, OF_BLOCKS, PARAMETERS, Problem, check, name_of, relative_errors
from covering_array import covering_array
from headrace import ops
from headrace.ops import native, reference
from headrace.ops.backend import runs_native
from headrace.ops.layout import num_blocks
from headrace.reach import Band, Blocks

LONGEST_LITERAL, LONG = 97, 700  # frames: the definition's loops over more are slow; two segments of backward
CASES = covering_array(
    {
        **PARAMETERS,
        **OF_BLOCKS,
        "T": [0, 1, 2, "A", "B", "A+B", "A+B+1", 63, 64, 65, 97, LONG],
        "B": [0, 1, 3, 8, 64, 120, "T+5"],
        "lengths": ["whole", "ragged", "on the edge", "nothing"],
        "bias": ["of queries"],
        "bias memory": ["contiguous", "heads inside", "every other", "numbers apart", "expanded"],
        "bias dtype": ["of q", "computed"],
    },
    seed=3,
)
NATIVE = pytest.param("native", marks=pytest.mark.skipif(not native.STATUS.is_loaded, reason=native.STATUS.reason))
each_backend = pytest.mark.parametrize("backend", ["torch", NATIVE])
needs_native = pytest.mark.skipif(not native.STATUS.is_loaded, reason=native.STATUS.reason)


def num_offsets(blocks):
    lowest, highest = blocks.offsets()
    return highest - lowest + 1


def random_call(blocks, count, rows=None, items=2, features=20, dtype=torch.float64):
    """q, k, v and a bias for each query of ``count`` blocks."""
    rows = rows or blocks.rows
    sizes = [(rows, features), (blocks.rows, features), (blocks.rows, features), (rows, num_offsets(blocks))]
    return [torch.randn(items, 2, count, *size, dtype=torch.float64).to(dtype) for size in sizes]


def results_of(op, inputs, blocks, lengths, weights):
    """y and every gradient."""
    leaves = [x.detach().requires_grad_() for x in inputs]
    y = op(*leaves[:3], blocks, lengths, leaves[3])
    return [y.detach(), *torch.autograd.grad(y, leaves, weights)]


def seen_offsets(blocks, count, length):
    """[count, R, offsets] bool: what the entries of a bias are added to, by the rule of DESIGN.md."""
    lowest, _ = blocks.offsets()
    seen = torch.zeros(count, blocks.rows, num_offsets(blocks), dtype=torch.bool)
    for b in range(count):
        for r in range(blocks.rows):
            frame = b * blocks.hop + r
            oldest = max(0, (b * blocks.hop if blocks.per_block else frame) - blocks.look_back)
            for s in range(oldest, min(length, b * blocks.hop + blocks.rows)):
                seen[b, r, s - frame - lowest] = frame < length
    return seen


@needs_native
@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_the_kernels_are_the_definition_for_every_pair_of_values(case, poisoned):
    torch.manual_seed(len(name_of(case)))
    problem = Problem("llsa", case)
    truth = problem.literal() if problem.frames <= LONGEST_LITERAL else problem.torch(torch.float64)
    check(problem, problem.native(), truth)


@pytest.mark.parametrize("case", [case for case in CASES if case["T"] != LONG], ids=name_of)
def test_the_torch_path_is_the_definition_for_every_pair_of_values(case, poisoned):
    torch.manual_seed(len(name_of(case)))
    problem = Problem("llsa", case)
    allowed = {torch.float32: BACKWARD, torch.float64: 1e-12}.get(problem.dtype, 4 * torch.finfo(problem.dtype).eps)
    assert max(relative_errors(problem.torch(), problem.literal())) <= allowed


@each_backend
@pytest.mark.parametrize("final", [False, True], ids=["all rows", "final rows"])
@pytest.mark.parametrize("per_block", [False, True], ids=["", "per block"])
def test_gradcheck(backend, final, per_block):
    blocks = Blocks(2, 3, 2, per_block)
    *qkv, wide = random_call(blocks, 3, rows=2 if final else 4, features=4)
    bias = torch.cat([wide, wide], -1)[..., ::2]  # not contiguous
    with ops.backend(backend):
        assert torch.autograd.gradcheck(
            lambda q, k, v, bias: ops.llsa(q, k, v, blocks, torch.tensor([5, 3]), bias),
            [x.requires_grad_() for x in (*qkv, bias)],
        )


@needs_native
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_opcheck(dtype):
    blocks = Blocks(2, 3, 2)
    *qkv, bias = random_call(blocks, 5, features=16, dtype=dtype)
    bias = bias.float()
    for memory in (bias, bias.movedim(1, -2).contiguous().movedim(-2, 1), torch.cat([bias, bias], -1)[..., ::2]):
        leaves = [x.detach().requires_grad_() for x in (*qkv, memory)]
        arguments = (*leaves[:3], torch.tensor([9, 4]), leaves[3], 2, 3, 2, False)
        torch.library.opcheck(torch.ops.headrace.llsa.default, arguments)


@needs_native
def test_opcheck_of_a_tick():
    q, k, v = (torch.randn(2, 2, 3, 16) for _ in range(3))
    ring, positions, slots = torch.randn(3, 2, 9, 16), torch.tensor([4, 2, 0]), torch.tensor([2, 0])
    arguments = (q, k, v, ring, ring.clone(), positions, slots, torch.tensor([9, 9]), torch.randn(2, 2, 3, 7))
    torch.library.opcheck(torch.ops.headrace.llsa_step.default, (*arguments, 2, 4, 1, False))


@needs_native
def test_compiles_whole_for_any_number_of_frames():
    blocks = Blocks(2, 3, 2)

    def call(q, k, v, bias, lengths):
        return ops.llsa(q, k, v, blocks, lengths, bias).sin()

    compiled = torch.compile(call, fullgraph=True, dynamic=True, backend="aot_eager")
    for count in (5, 9, 17):
        inputs = [x.requires_grad_() for x in random_call(blocks, count)]
        lengths = torch.tensor([2 * count, 3])
        got = torch.autograd.grad(compiled(*inputs, lengths).sum(), inputs)
        for a, b in zip(got, torch.autograd.grad(call(*inputs, lengths).sum(), inputs), strict=True):
            torch.testing.assert_close(a, b)


@needs_native
@pytest.mark.parametrize("blocks", [Blocks(8, 64), Blocks(3, 300, 4), Blocks(0, 64, 16, per_block=True)], ids=str)
@pytest.mark.parametrize("length", [None, 1100, 3], ids=lambda n: f"length {n}")
def test_bits_are_the_same_twice_and_for_any_number_of_threads(blocks, length, poisoned):
    inputs = random_call(blocks, num_blocks(1500, blocks), items=1, features=32, dtype=torch.float32)
    lengths, weights = None if length is None else torch.tensor([length]), torch.randn_like(inputs[0])
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 2, 3):
            torch.set_num_threads(threads)
            with ops.backend("native"):
                results.append(results_of(ops.llsa, inputs, blocks, lengths, weights))
    finally:
        torch.set_num_threads(before)
    for again in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], again, strict=True))


@each_backend
@pytest.mark.parametrize("blocks", [Blocks(3, 20), Blocks(2, 9, 4), Blocks(2, 9, 4, per_block=True)], ids=str)
def test_a_bias_that_queries_share_is_that_of_each_query_repeated(blocks, backend):
    """With the same bits on the kernels, whose first sum of the gradient alone differs."""
    q, k, v, grad = (x.float() for x in [*random_call(blocks, 80)[:3], torch.randn(2, 2, 80, blocks.rows, 20)])
    shared = torch.randn(2, num_offsets(blocks))
    each = shared[None, :, None, None].expand(2, 2, 80, blocks.rows, -1)
    with ops.backend(backend):
        *of_each, grad_each = results_of(ops.llsa, [q, k, v, each], blocks, None, grad)
        *of_shared, grad_shared = results_of(ops.llsa, [q, k, v, shared], blocks, None, grad)
    assert all(torch.equal(a, b) for a, b in zip(of_each, of_shared, strict=True))
    torch.testing.assert_close(grad_each.sum((0, 2, 3)), grad_shared, rtol=1e-4, atol=1e-4)


@each_backend
@pytest.mark.parametrize("per_block", [False, True], ids=["", "per block"])
@pytest.mark.parametrize("hop", [1, 3], ids=lambda n: f"hop {n}")
def test_entries_of_frames_that_are_not_seen_are_not_read_and_have_no_gradient(backend, hop, per_block, poisoned):
    blocks, count, lengths = Blocks(2, 4, hop, per_block), 11, [hop * 8 + 1, 0]
    inputs = random_call(blocks, count)
    seen = torch.stack([seen_offsets(blocks, count, n) for n in lengths])[:, None].expand(inputs[3].shape)
    assert seen.any() and not seen.all()
    spoiled = [*inputs[:3], inputs[3].masked_fill(~seen, float("nan"))]
    weights = torch.randn_like(inputs[0])
    with ops.backend(backend):
        clean = results_of(ops.llsa, inputs, blocks, torch.tensor(lengths), weights)
        got = results_of(ops.llsa, spoiled, blocks, torch.tensor(lengths), weights)
    for a, b in zip(got, clean, strict=True):
        assert torch.equal(a, b)
    assert not got[-1][~seen].any()
    truth = results_of(reference.llsa, inputs, blocks, torch.tensor(lengths), weights)
    torch.testing.assert_close(got, truth)


@each_backend
@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(1, 23)), min_size=1, max_size=4),
    st.integers(0, 5),
    st.integers(0, 9),
    st.integers(1, 4),
    st.booleans(),
    st.booleans(),
)
def test_by_blocks_is_llsa_on_the_whole(backend, turns, ahead, back, hop, per_block, final_only):
    torch.manual_seed(0)
    blocks = Blocks(ahead, back, hop, per_block)
    ring = torch.full((4, 2, max(back, hop), 20), float("nan"), dtype=torch.float64)
    state = ring, ring.clone(), torch.zeros(4, dtype=torch.int64)
    for slot, frames in turns:  # one stream after the other, in slots that were used before
        inputs = random_call(blocks, num_blocks(frames, blocks), rows=hop if final_only else None, items=1)
        state[2][slot] = 0
        ends, slots = torch.tensor([frames]), torch.tensor([slot])
        with ops.backend(backend):
            got = [
                ops.llsa_step(q, k, v, *state, slots, blocks, ends, bias)
                for q, k, v, bias in zip(*(x.unbind(2) for x in inputs), strict=True)
            ]
            whole = ops.llsa(*inputs[:3], blocks, ends, inputs[3])
        torch.testing.assert_close(torch.stack(got, 2), whole, rtol=0, atol=1e-12)


@each_backend
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_ticks_of_every_dtype_give_the_rows_of_the_whole(dtype, backend):
    blocks, slots = Blocks(8, 64), torch.tensor([1, 0])
    inputs = random_call(blocks, 90, dtype=dtype)
    ring = torch.full((3, 2, 64, 20), float("nan"), dtype=dtype)
    state = ring, ring.clone(), torch.zeros(3, dtype=torch.int64)
    with ops.backend(backend):
        got = [
            ops.llsa_step(q, k, v, *state, slots, blocks, torch.tensor([90, 90]), bias)
            for q, k, v, bias in zip(*(x.unbind(2) for x in inputs), strict=True)
        ]
        whole = ops.llsa(*inputs[:3], blocks, None, inputs[3])
    torch.testing.assert_close(torch.stack(got, 2), whole, atol=2 * torch.finfo(dtype).eps, rtol=2e-2)


def test_a_gpu_takes_it_by_the_torch_path(monkeypatch):
    monkeypatch.setattr(native, "STATUS", dataclasses.replace(native.STATUS, devices=("cpu", "cuda")))
    monkeypatch.setitem(runs_native.__globals__, "_is_new_enough", lambda gpu: True)
    q = SimpleNamespace(device=SimpleNamespace(type="cuda", index=0), dtype=torch.float32)
    assert runs_native(q) and runs_native(q, torch.zeros(2, 7))
    assert not runs_native(q, torch.zeros(1, 2, 5, 4, 7)) and not runs_native(q, torch.zeros(1, 2, 4, 7))


def step(q, blocks, bias):
    rings = torch.zeros(3, 2, 9, 4), torch.zeros(3, 2, 9, 4)
    x = torch.zeros(q.shape[0], 2, blocks.rows, 4)
    return ops.llsa_step(q, x, x, *rings, torch.zeros(3, dtype=torch.int64), torch.tensor([0]), blocks, None, bias)


@each_backend
@pytest.mark.parametrize(
    ("call", "words"),
    [
        pytest.param(
            lambda q: ops.llsa(q, q, q, Blocks(2, 3, 2), bias=torch.zeros(1, 2, 5, 4, 8)),
            ["llsa: bias", "[H, offsets] = (2, 7)", "[N, H, P, R, offsets] = (1, 2, 5, 4, 7)", "got (1, 2, 5, 4, 8)"],
            id="an offset too many",
        ),
        pytest.param(
            lambda q: ops.llsa(q[..., :2, :], q, q, Blocks(2, 3, 2), bias=torch.zeros(1, 2, 5, 4, 7)),
            ["llsa: bias", "(1, 2, 5, 2, 7)", "got (1, 2, 5, 4, 7)"],
            id="all rows for final queries",
        ),
        pytest.param(
            lambda q: ops.llsa(q, q, q, Blocks(2, 3, 2), bias=torch.zeros(1, 1, 5, 4, 7)),
            ["llsa: bias", "got (1, 1, 5, 4, 7)"],
            id="one head for two",
        ),
        pytest.param(
            lambda q: ops.llsa(q, q, q, Blocks(2, None, 2), bias=torch.zeros(1, 2, 5, 4, 7)),
            ["look_back=None", "choose a number of frames"],
            id="unbounded look-back",
        ),
        pytest.param(
            lambda q: ops.llsa(*[q[:, :, 0]] * 3, Blocks(2, 3, 2), bias=torch.zeros(1, 2, 2, 4, 7)),
            ["llsa: bias for each query", "(1, 2, 2, 4, 7)", "q (1, 2, 4, 4)", "lay_out", "[H, offsets]"],
            id="first layer",
        ),
        pytest.param(
            lambda q: ops.sa(*[q[:, :, 0]] * 3, Band(2, 3), bias=torch.zeros(1, 2, 4, 6)),
            ["sa: bias must be [H, offsets] = (2, 6)", "got (1, 2, 4, 6)"],
            id="sa",
        ),
        pytest.param(
            lambda q: step(q[:, :, 0], Blocks(2, 3, 2), torch.zeros(1, 2, 4, 6)),
            ["llsa_step: bias", "[S, H, R, offsets] = (1, 2, 4, 7)", "got (1, 2, 4, 6)"],
            id="a tick, an offset too few",
        ),
        pytest.param(
            lambda q: step(q[:, :, 0], Blocks(2, 3, 2), torch.zeros(2, 7)),
            ["llsa_step: bias", "[S, H, R, offsets] = (1, 2, 4, 7)", "got (2, 7)"],
            id="a tick, shared",
        ),
    ],
)
def test_wrong_shapes_are_named_with_what_came(call, words, backend):
    with ops.backend(backend), pytest.raises(ValueError) as caught:
        call(torch.zeros(1, 2, 5, 4, 4))
    assert all(word in str(caught.value) for word in words), str(caught.value)

# SPDX-License-Identifier: Apache-2.0
"""sa, llsa and masked against the literal definitions, forward and every gradient, in float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from headrace import ops
from headrace.ops import native, reference
from headrace.ops.layout import lay_out, num_blocks, read_back
from headrace.reach import Band, Blocks

TIGHT = 1e-12


@pytest.fixture(scope="module", autouse=True, params=["torch", "native"])
def backend(request):
    """Every test here holds for whoever computes."""
    if request.param == "native" and not native.STATUS.is_loaded:
        pytest.skip(native.STATUS.reason)
    with ops.backend(request.param):
        yield request.param


def random(*shape):
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def run(op, inputs, reach, lengths, bias):
    leaves = [x.detach().clone().requires_grad_() for x in (*inputs, *([] if bias is None else [bias]))]
    y = op(*leaves[:3], reach, lengths, leaves[3] if bias is not None else None)
    weights = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).reshape(y.shape)
    if y.requires_grad:  # the literal definition of nothing has no graph
        (y * weights).sum().backward()
    return [y.detach(), *(torch.zeros_like(x) if x.grad is None else x.grad for x in leaves)]


def assert_equal_with_gradients(op, oracle, inputs, reach, lengths, bias):
    for name, got, expected in zip(
        ["y", "q", "k", "v", "bias"],
        run(op, inputs, reach, lengths, bias),
        run(oracle, inputs, reach, lengths, bias),
        strict=False,
    ):
        assert torch.allclose(got, expected, rtol=TIGHT, atol=TIGHT), f"{name} differs"


@st.composite
def cases(draw):
    torch.manual_seed(draw(st.integers(0, 2**16)))
    num_frames = draw(st.sampled_from([0, 1, 2, 5, 11, 17]))
    ahead = draw(st.sampled_from([0, 1, 3, 8]))
    back = draw(st.sampled_from([0, 1, 3, 8, num_frames + 5, None]))
    items = draw(st.sampled_from([0, 1, 2]))
    lengths = draw(st.none() | st.lists(st.integers(0, num_frames), min_size=items, max_size=items))
    lengths = None if lengths is None else torch.tensor(lengths, dtype=torch.int64)
    return num_frames, ahead, back, items, lengths, back is not None and draw(st.booleans())


@settings(max_examples=60)
@given(cases())
def test_sa_is_the_definition(case):
    num_frames, ahead, back, items, lengths, biased = case
    inputs = [random(items, 2, num_frames, 4) for _ in range(3)]
    bias = random(2, ahead + back + 1) if biased else None
    assert_equal_with_gradients(ops.sa, reference.sa, inputs, Band(ahead, back), lengths, bias)


@settings(max_examples=60)
@given(cases(), st.sampled_from([1, 2, 5]), st.booleans())
def test_llsa_is_the_definition(case, hop, per_block):
    num_frames, ahead, back, items, lengths, biased = case
    blocks = Blocks(ahead, back, hop, per_block)
    inputs = [random(items, 2, num_blocks(num_frames, blocks), hop + ahead, 4) for _ in range(3)]
    lowest, highest = blocks.offsets() if biased else (0, 0)
    bias = random(2, highest - lowest + 1) if biased else None
    assert_equal_with_gradients(ops.llsa, reference.llsa, inputs, blocks, lengths, bias)


@settings(max_examples=40)
@given(cases(), st.sampled_from([1, 2, 5]), st.booleans())
def test_llsa_of_the_final_rows_alone_is_the_definition(case, hop, per_block):
    num_frames, ahead, back, items, lengths, biased = case
    blocks = Blocks(ahead, back, hop, per_block)
    inputs = [random(items, 2, num_blocks(num_frames, blocks), rows, 4) for rows in (hop, hop + ahead, hop + ahead)]
    lowest, highest = blocks.offsets() if biased else (0, 0)
    bias = random(2, highest - lowest + 1) if biased else None
    assert_equal_with_gradients(ops.llsa, reference.llsa, inputs, blocks, lengths, bias)


@settings(max_examples=40)
@given(cases(), st.sampled_from([1, 2, 5]), st.booleans())
def test_llsa_of_the_first_layer_is_the_definition_of_frames_laid_out(case, hop, per_block):
    num_frames, ahead, back, items, lengths, biased = case
    blocks = Blocks(ahead, back, hop, per_block)

    def laid_out(q, k, v, blocks, lengths, bias):
        lengths = torch.full((items,), num_frames) if lengths is None else lengths
        return reference.llsa(*(lay_out(x, blocks) for x in (q, k, v)), blocks, lengths, bias)

    inputs = [random(items, 2, num_frames, 4) for _ in range(3)]
    lowest, highest = blocks.offsets() if biased else (0, 0)
    bias = random(2, highest - lowest + 1) if biased else None
    assert_equal_with_gradients(ops.llsa, laid_out, inputs, blocks, lengths, bias)


@pytest.mark.parametrize("num_frames", [63, 64, 65, 97, 300], ids=lambda t: f"T{t}")
@pytest.mark.parametrize(("ahead", "back"), [(3, 8), (8, 64), (16, None)], ids=["A3-B8", "A8-B64", "A16-unbounded"])
def test_sa_across_the_edges_of_its_groups_is_the_dense_masked_result(num_frames, ahead, back):
    torch.manual_seed(0)
    inputs = [random(2, 2, num_frames, 8) for _ in range(3)]
    lengths = torch.tensor([num_frames, num_frames - 5])
    dense = lambda q, k, v, band, lengths, bias: ops.masked(q, k, v, band, lengths)  # noqa: E731
    assert_equal_with_gradients(ops.sa, dense, inputs, Band(ahead, back), lengths, None)


def paper_llsa(q, k, v, ahead, back):
    """The paper's own indexing: q[t, c], e(s) = min(t + c - s, A). q, k, v: [T, A+1, D]."""
    num_frames, channels, _ = q.shape
    y = torch.zeros_like(q)
    for t in range(num_frames):
        for c in range(channels):
            seen = [s for s in range(max(0, t - back), t + c + 1) if s < num_frames]
            keys = torch.stack([k[s, min(t + c - s, ahead)] for s in seen])
            values = torch.stack([v[s, min(t + c - s, ahead)] for s in seen])
            y[t, c] = (q[t, c] @ keys.T / q.shape[-1] ** 0.5).softmax(-1) @ values
    return y


@pytest.mark.parametrize(("num_frames", "ahead", "back"), [(12, 2, 5), (9, 3, 1), (7, 8, 20), (6, 0, 2)])
def test_anchor_major_rows_are_the_channels_of_the_paper(num_frames, ahead, back):
    torch.manual_seed(0)
    q, k, v = (torch.randn(num_frames, ahead + 1, 4, dtype=torch.float64) for _ in range(3))

    def anchor_major(x):  # row [t, i] is frame t + i in channel A - i
        rows = torch.zeros(num_frames, ahead + 1, 4, dtype=x.dtype)
        for t in range(num_frames):
            for i in range(ahead + 1):
                if t + i < num_frames:
                    rows[t, i] = x[t + i, ahead - i]
        return rows[None, None]

    got = ops.llsa(anchor_major(q), anchor_major(k), anchor_major(v), Blocks(ahead, back))
    assert torch.allclose(got, anchor_major(paper_llsa(q, k, v, ahead, back)), atol=TIGHT)


@given(st.integers(0, 20), st.integers(0, 4), st.integers(1, 5))
def test_laying_out_and_reading_back_is_the_identity(num_frames, ahead, hop):
    x = torch.randn(2, num_frames, 3)
    blocks = Blocks(ahead, 4, hop)
    rows = lay_out(x, blocks)
    assert rows.shape == (2, num_blocks(num_frames, blocks), hop + ahead, 3)
    assert torch.equal(read_back(rows, blocks, num_frames), x)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_low_precision_is_at_most_twice_the_error_of_dense_attention(dtype):
    torch.manual_seed(0)
    exact = [torch.randn(2, 2, 97, 32, dtype=torch.float64) for _ in range(3)]
    low = [x.to(dtype) for x in exact]
    truth = reference.sa(*[x.double() for x in low], Band(3, 16))
    dense_error = (ops.masked(*low, Band(3, 16)).double() - truth).norm()
    assert (ops.sa(*low, Band(3, 16)).double() - truth).norm() <= 2 * dense_error + 1e-6
    assert ops.sa(*low, Band(3, 16)).dtype == dtype


def test_memory_of_sa_and_llsa_grows_linearly_with_the_number_of_frames():
    def largest_tensor(op, reach, shape):
        largest = 0

        class Watch(TorchDispatchMode):
            def __torch_dispatch__(self, function, types, args=(), kwargs=None):
                nonlocal largest
                result = function(*args, **(kwargs or {}))
                if isinstance(result, torch.Tensor):
                    largest = max(largest, result.numel())
                return result

        inputs = [torch.randn(*shape, requires_grad=True) for _ in range(3)]
        with Watch():
            op(*inputs, reach).sum().backward()
        return largest

    sa = [largest_tensor(ops.sa, Band(4, 60), (1, 1, t, 8)) for t in (1000, 4000)]
    llsa = [largest_tensor(ops.llsa, Blocks(4, 60), (1, 1, t, 5, 8)) for t in (1000, 4000)]
    assert sa[1] <= 4.1 * sa[0] and llsa[1] <= 4.1 * llsa[0]
    assert sa[1] < 4000 * 4000 / 16 and llsa[1] < 4000 * 4000 / 16


def test_rows_past_the_length_are_zero_and_unseen_even_when_not_finite():
    q, k, v = (torch.randn(1, 1, 6, 4) for _ in range(3))
    lengths = torch.tensor([4])
    for x in (q, k, v):
        x[:, :, 4:] = float("nan")
    for y in (ops.sa(q, k, v, Band(2, 2), lengths), ops.acausal(q, k, v, lengths)):
        assert torch.isfinite(y).all() and torch.equal(y[:, :, 4:], torch.zeros(1, 1, 2, 4))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda q: ops.sa(q, q[:, :, 1:], q, Band(1, 1)), ["sa: k", "(1, 2, 5, 4)", "(1, 2, 4, 4)"]),
        (lambda q: ops.sa(q, q, q[0], Band(1, 1)), ["sa: v", "N, H, T, D"]),
        (lambda q: ops.sa(q, q, q, Blocks(1, 1)), ["sa: band", "Blocks"]),
        (lambda q: ops.sa(q.int(), q.int(), q.int(), Band(1, 1)), ["sa: q", "float32", "int32"]),
        (lambda q: ops.sa(q, q, q.double(), Band(1, 1)), ["sa: v", "float64"]),
        (lambda q: ops.sa(q, q, q, Band(1, 1), lengths=torch.tensor([1, 2])), ["lengths", "[1] int64"]),
        (lambda q: ops.sa(q, q, q, Band(1, 1), lengths=torch.tensor([1.0])), ["lengths", "float32"]),
        (lambda q: ops.sa(q, q, q, Band(1, 1), lengths=torch.tensor([6])), ["sa: lengths", "0 .. 5", "6"]),
        (lambda q: ops.sa(q, q, q, Band(1, 1), lengths=torch.tensor([-1])), ["sa: lengths", "0 .. 5", "-1"]),
        (lambda q: ops.llsa(q[None], q[None], q[None], Blocks(2, 1, 3), torch.tensor([7])), ["lengths", "0 .. 6", "7"]),
        (lambda q: ops.sa(*[q.repeat(1, 1, 1, 33)] * 3, Band(1, 1)), ["sa: q", "1 to 128", "132"]),
        (lambda q: ops.sa(q, q, q, Band(1, 1), bias=torch.zeros(2, 4)), ["bias", "(2, 3)", "(2, 4)"]),
        (lambda q: ops.sa(q, q, q, Band(1, None), bias=torch.zeros(2, 4)), ["look_back=None"]),
        (lambda q: ops.llsa(q[None], *[q[None, ..., :3, :]] * 2, Blocks(2, 1)), ["llsa: q", "3 rows", "5"]),
        (
            lambda q: ops.llsa(q[None], q[None], q[None], Blocks(2, 1)),
            ["llsa: k", "(1, 1, 2, 3, 4)", "(1, 1, 2, 5, 4)"],
        ),
        (lambda q: ops.llsa(q[0], q[0], q[0], Blocks(2, 1)), ["llsa: q", "N, H, P, hop+A, D"]),
        (lambda q: ops.llsa(q[None], q[None], q[None], Band(2, 1)), ["llsa: blocks", "Band"]),
    ],
    ids=lambda x: None if callable(x) else "-".join(x)[:40],
)
def test_wrong_arguments_are_named_with_what_came(call, words):
    with pytest.raises(ValueError) as caught:
        call(torch.randn(1, 2, 5, 4))
    assert all(word in str(caught.value) for word in words), str(caught.value)

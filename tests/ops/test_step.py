# SPDX-License-Identifier: Apache-2.0
"""Ticks on ring buffers give the rows of the whole utterance, for streams that start and end on their own."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace import ops
from headrace.ops import native
from headrace.ops.layout import num_blocks
from headrace.reach import Band, Blocks

SLOTS, HEADS, FEATURES = 4, 2, 20


@pytest.fixture(scope="module", autouse=True, params=["torch", "native"])
def backend(request):
    """Every test here holds for whoever computes."""
    if request.param == "native" and not native.STATUS.is_loaded:
        pytest.skip(native.STATUS.reason)
    with ops.backend(request.param):
        yield request.param


def rings(frames, dtype=torch.float64):
    """A ring for keys, one for values, full of what an earlier stream left, and positions."""
    ring = torch.full((SLOTS, HEADS, frames, FEATURES), float("nan"), dtype=dtype)
    return ring, ring.clone(), torch.zeros(SLOTS, dtype=torch.int64)


def frames_of(x, first, count):
    """Frames [first, first + count) of x [H, T, D]; outside it, what must not be seen."""
    taken = torch.full((x.shape[0], count, x.shape[2]), float("nan"), dtype=x.dtype)
    for i in range(count):
        if 0 <= first + i < x.shape[1]:
            taken[:, i] = x[:, first + i]
    return taken


streams = st.lists(st.tuples(st.integers(0, SLOTS - 1), st.integers(1, 23)), min_size=1, max_size=6)


@settings(max_examples=40, deadline=None)
@given(streams, st.integers(0, 5), st.integers(0, 9), st.data())
def test_sa_by_ticks_of_any_size_is_sa_on_the_whole(turns, ahead, back, data):
    torch.manual_seed(0)
    band = Band(ahead, back)
    state = rings(ahead + back + 4 + data.draw(st.integers(0, 3)))
    for slot, frames in turns:  # one stream after the other, in slots that were used before
        q, k, v = (torch.randn(HEADS, frames, FEATURES, dtype=torch.float64) for _ in range(3))
        state[2][slot] = 0
        got, taken = [], 0
        while taken < frames + ahead:
            m = data.draw(st.integers(1, 4))
            rows = [frames_of(q, taken - ahead, m).nan_to_num(), *(frames_of(x, taken, m) for x in (k, v))]
            ends = torch.tensor([frames]) if taken + m > frames else None
            got.append(ops.sa_step(*(x[None] for x in rows), *state, torch.tensor([slot]), band, ends)[0])
            taken += m
        whole = ops.sa(q[None], k[None], v[None], band)[0]
        assert torch.allclose(torch.cat(got, 1)[:, ahead : ahead + frames], whole, atol=1e-12)
        assert not torch.cat(got, 1)[:, :ahead].any()


@settings(max_examples=40, deadline=None)
@given(streams, st.integers(0, 5), st.integers(0, 9), st.integers(1, 4), st.booleans(), st.booleans())
def test_llsa_by_blocks_is_llsa_on_the_whole(turns, ahead, back, hop, per_block, final_only):
    torch.manual_seed(0)
    blocks = Blocks(ahead, back, hop, per_block)
    state = rings(max(back, hop))
    for slot, frames in turns:
        count = num_blocks(frames, blocks)
        shape = (HEADS, count, blocks.rows, FEATURES)
        q, k, v = (torch.randn(shape, dtype=torch.float64) for _ in range(3))
        q = q[:, :, :hop] if final_only else q
        state[2][slot] = 0
        ends = torch.tensor([frames])
        got = [
            ops.llsa_step(*(x[None, :, b] for x in (q, k, v)), *state, torch.tensor([slot]), blocks, ends)[0]
            for b in range(count)
        ]
        assert torch.allclose(torch.stack(got, 1), ops.llsa(q[None], k[None], v[None], blocks, ends)[0], atol=1e-12)


def test_streams_of_one_batch_are_each_where_they_are():
    torch.manual_seed(0)
    blocks, frames = Blocks(2, 4), [9, 5, 7]
    rows = [torch.randn(3, HEADS, n, 3, FEATURES, dtype=torch.float64) for n in frames]
    slots, starts = [2, 0, 3], [0, 3, 1]
    state, got = rings(4), [[], [], []]
    for tick in range(12):
        running = [i for i in range(3) if starts[i] <= tick < starts[i] + frames[i]]
        if not running:
            continue
        now = torch.stack([rows[i][:, :, tick - starts[i]] for i in running], 1)
        used = torch.tensor([slots[i] for i in running])
        y = ops.llsa_step(*now, *state, used, blocks, torch.tensor([frames[i] for i in running]))
        for i, one in zip(running, y, strict=True):
            got[i].append(one)
    for i in range(3):
        whole = ops.llsa(*(x[None] for x in rows[i]), blocks)[0]
        assert torch.allclose(torch.stack(got[i], 1), whole, atol=1e-12)
    assert state[2].tolist() == [5, 0, 9, 7]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_every_dtype_gives_the_rows_of_the_whole(dtype):
    torch.manual_seed(0)
    blocks = Blocks(8, 64)
    q, k, v = (torch.randn(1, HEADS, 90, 9, FEATURES).to(dtype) for _ in range(3))
    state, slot = rings(64, dtype), torch.tensor([1])
    got = [
        ops.llsa_step(q[:, :, b], k[:, :, b], v[:, :, b], *state, slot, blocks, torch.tensor([90])) for b in range(90)
    ]
    whole = ops.llsa(q, k, v, blocks)
    torch.testing.assert_close(torch.stack(got, 2), whole, atol=2 * torch.finfo(dtype).eps, rtol=2e-2)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"band": Band(1, None)}, ["look_back=None"]),
        ({"band": Blocks(1, 1)}, ["band", "Blocks"]),
        ({"key_ring": torch.zeros(4, 2, 5, 20)}, ["key_ring", "frames >= 6", "(4, 2, 5, 20)"]),
        ({"value_ring": torch.zeros(4, 2, 7, 20)}, ["value_ring", "(4, 2, 7, 20)"]),
        ({"key_ring": torch.zeros(4, 2, 6, 20).double()}, ["key_ring", "float32", "float64"]),
        ({"positions": torch.zeros(3, dtype=torch.int64)}, ["positions", "[4] int64", "(3,)"]),
        ({"slots": torch.tensor([0, 4])}, ["slots", "0 .. 3", "[0, 4]"]),
        ({"slots": torch.tensor([1, 1])}, ["slots", "different", "[1, 1]"]),
        ({"lengths": torch.tensor([1.0, 2.0])}, ["lengths", "float32"]),
    ],
    ids=lambda x: None if isinstance(x, dict) else "-".join(x)[:40],
)
def test_wrong_arguments_are_named_with_what_came(changes, words):
    arguments = {
        **{name: torch.randn(2, HEADS, 2, FEATURES) for name in "qkv"},
        **{name: torch.zeros(4, HEADS, 6, FEATURES) for name in ("key_ring", "value_ring")},
        "positions": torch.zeros(4, dtype=torch.int64),
        "slots": torch.tensor([0, 2]),
        "band": Band(1, 3),
    }
    with pytest.raises(ValueError) as caught:
        ops.sa_step(**{**arguments, **changes})
    assert all(word in str(caught.value) for word in ["sa_step", *words]), str(caught.value)

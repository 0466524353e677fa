# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from headrace.reach import Band, Blocks, Everything, Stack, look_ahead, mask, picture

LITERAL_MASKS = {
    "band A1 B2": (Band(1, 2), ["11000", "11100", "11110", "01111", "00111"]),
    "band A0 B0": (Band(0, 0), ["10000", "01000", "00100", "00010", "00001"]),
    "band A0 unbounded": (Band(0, None), ["10000", "11000", "11100", "11110", "11111"]),
    "band wider than the utterance": (Band(9, 9), ["11111"] * 5),
    "everything": (Everything(), ["11111"] * 5),
    "llsa A1 B2": (Blocks(1, 2), ["11000", "11100", "11110", "01111", "00111"]),
    "hop 2 A1 B1": (Blocks(1, 1, hop=2), ["11100", "11100", "01111", "00111", "00011"]),
    "chunks of 2": (Blocks(0, 0, hop=2, per_block=True), ["11000", "11000", "00110", "00110", "00001"]),
    "chunks of 2, one chunk back": (Blocks(0, 2, hop=2, per_block=True), ["11000", "11000", "11110", "11110", "00111"]),
}


@pytest.mark.parametrize(("reach", "rows"), LITERAL_MASKS.values(), ids=LITERAL_MASKS)
def test_mask_equals_the_literal_picture(reach, rows):
    assert ["".join(str(int(s)) for s in row) for row in mask(reach, 5)] == rows


def test_picture_shows_the_mask():
    assert picture(Band(1, 0), 3) == "██·\n·██\n··█"


frames = st.integers(0, 6)
look_backs = st.none() | frames


@given(st.lists(st.builds(Band, frames, look_backs), min_size=1, max_size=4))
def test_bands_compose_as_the_product_of_their_masks(layers):
    product = torch.eye(12)
    for layer in layers:
        product = mask(layer, 12).float() @ product
    assert torch.equal(mask(Stack(tuple(layers)), 12), product > 0)


@given(frames, look_backs, st.integers(1, 4), st.integers(1, 12))
def test_blocks_look_ahead_does_not_grow_with_depth(ahead, back, hop, depth):
    stack = Stack((Blocks(ahead, back, hop),) * depth)
    assert look_ahead(stack) == ahead + hop - 1
    assert all(stack.last(t) == t // hop * hop + hop - 1 + ahead for t in range(20))


@pytest.mark.parametrize(
    ("stack", "expected"),
    [
        (Stack((Band(8, 60),) * 12), 96),
        (Stack((Band(0, 3), Band(2, 3), Band(1, None))), 3),
        (Stack((Band(0, 3), Everything())), None),
        (Stack((Blocks(8, 60),) * 12), 8),
    ],
    ids=["12 bands of 8", "one number per layer", "one layer sees everything", "12 LLSA layers"],
)
def test_look_ahead_of_a_stack(stack, expected):
    assert look_ahead(stack) == expected


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Band(-1, 3), ["look_ahead", ">= 0", "-1"]),
        (lambda: Band(1, -2), ["look_back", "-2"]),
        (lambda: Band(1.5, 2), ["look_ahead", "1.5"]),
        (lambda: Band(True, 2), ["look_ahead", "True"]),
        (lambda: Blocks(1, 2, hop=0), ["hop", ">= 1", "0"]),
        (lambda: Stack((Blocks(1, 2), Blocks(2, 2))), ["one look_ahead and hop"]),
        (lambda: Stack((Blocks(1, 2), Band(1, 2))), ["Blocks"]),
        (lambda: Band(1, None).offsets(), ["look_back=None"]),
    ],
    ids=["negative ahead", "negative back", "fraction", "bool", "hop 0", "mixed blocks", "blocks and band", "no bias"],
)
def test_bad_values_are_named(make, words):
    with pytest.raises(ValueError) as caught:
        make()
    assert all(word in str(caught.value) for word in words)

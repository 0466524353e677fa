# SPDX-License-Identifier: Apache-2.0
"""Some frames at a time give what all at once give, and hold less."""

import pytest
import torch

from headrace import EncoderConfig, SpeechEncoder
from headrace.pieces import FRAMES, by_frames, in_pieces

LENGTHS = (0, 1, FRAMES - 1, FRAMES, FRAMES + 1, 3 * FRAMES, 3 * FRAMES + 17)


def doubled_and_summed(x):
    return torch.cat([2 * x, x.sum(-1, keepdim=True)], -1)


@pytest.mark.parametrize("length", LENGTHS)
def test_frames_in_pieces_are_the_frames_at_once(length):
    x = torch.randn(1, length, 3)
    with torch.no_grad():
        assert torch.equal(by_frames(doubled_and_summed, x), doubled_and_summed(x))


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8])
def test_no_piece_is_larger_than_asked_for_and_all_are_seen_in_order(size):
    seen = []

    def function(x):
        seen.append(x)
        return x + 1

    x = torch.arange(7.0)[:, None]
    with torch.no_grad():
        assert torch.equal(in_pieces(function, x, size), x + 1)
    assert max(map(len, seen)) <= size
    assert torch.equal(torch.cat(seen), x)


def test_with_gradients_all_is_one_piece():
    x = torch.randn(2 * FRAMES, 2, requires_grad=True)
    by_frames(doubled_and_summed, x).sum().backward()
    assert torch.equal(x.grad, torch.full_like(x, 3.0))


def test_dropout_is_drawn_at_once():
    config = EncoderConfig(
        block="conformer", mixer="none", positions="none", hop=4, look_back=0, num_layers=1, embed_dim=16, ffn_dim=24,
        num_heads=2, conv_kernel=5, frontend="log_mel", dropout=0.3, activation_dropout=0.3,
    )  # fmt: skip
    encoder = SpeechEncoder(config).train()
    frames = torch.randn(1, 2 * FRAMES, 16)
    torch.manual_seed(0)
    with_gradients = encoder.context(frames)[-1]
    torch.manual_seed(0)
    with torch.no_grad():
        without = encoder.context(frames)[-1]
    torch.testing.assert_close(without, with_gradients.detach(), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("hop", [3, 16, None])
@pytest.mark.parametrize("mixer", ["chunked", "deformable", "none", "summary"])
def test_a_conformer_gives_the_same_in_pieces_as_at_once(mixer, hop):
    torch.manual_seed(0)
    config = EncoderConfig(
        block="conformer", mixer=mixer, positions="relative" if mixer == "chunked" else "none", hop=hop, look_back=0,
        num_layers=2, embed_dim=16, ffn_dim=24, num_heads=2, conv_kernel=5, frontend="log_mel",
    )  # fmt: skip
    encoder = SpeechEncoder(config).eval()
    frames = torch.randn(2, FRAMES + 37, 16)
    lengths = torch.tensor([FRAMES + 37, FRAMES // 2])
    at_once = encoder.context(frames, lengths)
    with torch.no_grad():
        in_parts = encoder.context(frames, lengths)
    for one, other in zip(at_once, in_parts, strict=True):
        torch.testing.assert_close(other, one.detach(), atol=2e-5, rtol=1e-4)

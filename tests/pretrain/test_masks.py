# SPDX-License-Identifier: Apache-2.0
"""Masks are a function of seed, epoch and utterance."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("fairseq", reason="fairseq is not installed")
from headrace_fairseq import masks

MASKING = {
    "mask_prob": 0.65,
    "mask_length": 4,
    "mask_selection": "static",
    "mask_other": 0.0,
    "no_mask_overlap": False,
    "mask_min_space": 1,
    "require_same_masks": True,
    "mask_dropout": 0.0,
    "mask_channel_prob": 0.3,
    "mask_channel_length": 2,
    "mask_channel_selection": "static",
    "mask_channel_other": 0.0,
    "no_mask_channel_overlap": False,
    "mask_channel_min_space": 1,
}


def draw(utterances, seed=1, epoch=1, lengths=None, num_frames=60, **changes):
    lengths = torch.tensor(lengths or [num_frames] * len(utterances))
    cfg = SimpleNamespace(**(MASKING | changes))
    return masks.time_mask(lengths, num_frames, cfg, seed, epoch, torch.tensor(utterances))


def test_same_seed_epoch_and_utterances_same_mask():
    assert torch.equal(draw([3, 9, 4]), draw([3, 9, 4]))


@pytest.mark.parametrize("change", [{"seed": 2}, {"epoch": 2}], ids=str)
def test_another_seed_or_epoch_another_mask(change):
    assert not torch.equal(draw([3]), draw([3], **change))


def test_mask_is_the_same_on_every_machine():
    frames = draw([5], num_frames=30)[0].nonzero().flatten().tolist()
    assert frames == [0, 1, 2, 3, 9, 10, 11, 12, 13, 14, 15, 16, 17, 22, 23, 24, 25]


def test_an_utterance_keeps_its_mask_among_others_but_for_what_is_thinned():
    alone, among = draw([3])[0], draw([9, 3, 4])[1]
    assert not (among & ~alone).any()


def test_every_utterance_has_as_many_masked_frames():
    assert len(set(draw([1, 2, 3, 4], lengths=[60, 33, 41, 50]).sum(-1).tolist())) == 1


def test_without_require_same_masks_companions_change_nothing():
    assert torch.equal(draw([9, 3], require_same_masks=False)[1], draw([3], require_same_masks=False)[0])


def test_padding_is_never_masked():
    mask = draw([1, 2], lengths=[60, 33])
    assert not mask[1, 33:].any()


def test_channels_are_masked_for_the_whole_utterance_and_not_as_frames_are():
    cfg = SimpleNamespace(**MASKING)
    channels = masks.channel_mask(5, 60, cfg, 1, 1, torch.tensor([3, 4]))
    assert channels.shape == (2, 5, 60)
    assert (channels == channels[:, :1]).all()
    assert not torch.equal(channels[0, 0], channels[1, 0])
    assert torch.equal(channels, masks.channel_mask(5, 60, cfg, 1, 1, torch.tensor([3, 4])))
    like_frames = MASKING | {"mask_prob": 0.3, "mask_length": 2}
    assert not torch.equal(channels[0, 0], draw([3], **like_frames)[0])


@pytest.mark.parametrize("change", [{"seed": 2}, {"epoch": 2}, {"utterance": 8}], ids=str)
def test_another_seed_epoch_or_utterance_other_channels(change):
    def channels(seed=1, epoch=1, utterance=3):
        return masks.channel_mask(1, 60, SimpleNamespace(**MASKING), seed, epoch, torch.tensor([utterance]))

    assert torch.equal(channels(), channels())
    assert not torch.equal(channels(), channels(**change))


@pytest.mark.parametrize("change", [{"seed": 2}, {"epoch": 2}], ids=str)
def test_what_is_thinned_is_drawn_anew_with_the_mask(monkeypatch, change):
    whole = np.ones((1, 60), dtype=bool), np.ones((1, 20), dtype=bool)

    def unmasked(**change):
        rows = iter(whole)
        monkeypatch.setattr(masks, "compute_mask_indices", lambda *_, **__: next(rows).copy())
        return draw([3, 4], lengths=[60, 20], **change)[0]

    assert torch.equal(unmasked(), unmasked())
    assert unmasked().sum() == 20
    assert not torch.equal(unmasked(), unmasked(**change))


@given(st.floats(0.05, 0.95), st.integers(1, 10), st.integers(0, 40), st.integers(0, 2**31))
def test_min_frames_always_leaves_a_frame(mask_prob, mask_length, extra, utterance):
    cfg = SimpleNamespace(mask_prob=mask_prob, mask_length=mask_length)
    length = masks.min_frames(cfg) + extra
    mask = draw([utterance], num_frames=length, mask_prob=mask_prob, mask_length=mask_length)
    assert 0 < mask.sum() < length


def test_masking_everything_is_refused():
    with pytest.raises(ValueError, match=r"mask_prob=1.2 masks whole utterances"):
        masks.min_frames(SimpleNamespace(mask_prob=1.2, mask_length=10))

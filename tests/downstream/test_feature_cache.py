# SPDX-License-Identifier: Apache-2.0
import errno
from types import SimpleNamespace

import numpy
import pytest
import torch
from torch import nn

from headrace_downstream import feature_cache
from headrace_downstream.feature_cache import CachedUpstream


class Upstream(nn.Module):
    """Two layers of features of 320 samples each; counts how often it is asked."""

    def __init__(self, weight=2.0):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight))
        self.asked = 0

    def get_downsample_rates(self, key):
        return 320

    def features(self, wavs):
        batch = nn.utils.rnn.pad_sequence(list(wavs), batch_first=True)
        batch = nn.functional.pad(batch, (0, -batch.shape[1] % 320))
        return batch.unflatten(1, (-1, 320))[..., :5] * self.weight

    def forward(self, wavs):
        self.asked += 1
        first = self.features(wavs)
        return {"hidden_states": [first, first.tanh()]}


class LooksAtTheBatch(Upstream):
    def features(self, wavs):
        found = super().features(wavs)
        return found / found.abs().mean()


class NeverTheSame(Upstream):
    def features(self, wavs):
        found = super().features(wavs)
        return found + torch.randn_like(found)


class OtherCode(Upstream):
    def features(self, wavs):
        return super().features(wavs) + 1


OtherCode.__qualname__, OtherCode.__module__ = Upstream.__qualname__, Upstream.__module__


def waves(*lengths):
    return [torch.randn(length) for length in lengths]


def test_a_batch_is_what_the_upstream_itself_gives(tmp_path):
    upstream, wavs = Upstream(), waves(1000, 320, 2345)
    cached = CachedUpstream(upstream, "x", "source", "hidden_states", tmp_path)
    for _ in range(2):  # computed, then read
        found, expected = cached(wavs)["hidden_states"], upstream(wavs)["hidden_states"]
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(ours, theirs)


def test_an_utterance_is_computed_once_in_whatever_company_and_by_whichever_run(tmp_path):
    upstream, wavs = Upstream(), waves(1000, 320)
    cached = CachedUpstream(upstream, "x", "source", "hidden_states", tmp_path)
    before = upstream.asked
    cached(wavs), cached(wavs[::-1]), cached(wavs[:1])
    assert upstream.asked - before == 2
    another = Upstream()
    again = CachedUpstream(another, "x", "source", "hidden_states", tmp_path)
    before = another.asked
    again(wavs)
    assert another.asked == before


def test_other_weights_have_features_of_their_own(tmp_path):
    wavs = waves(1000)
    first = CachedUpstream(Upstream(2.0), "x", "source", "hidden_states", tmp_path)(wavs)["hidden_states"][0]
    second = CachedUpstream(Upstream(3.0), "x", "source", "hidden_states", tmp_path)(wavs)["hidden_states"][0]
    torch.testing.assert_close(second, first * 1.5)


def test_the_same_weights_with_other_settings_have_features_of_their_own(tmp_path):
    wavs = waves(1000)
    first = CachedUpstream(Upstream(), "x", "full", "hidden_states", tmp_path)(wavs)["hidden_states"][0]
    second = CachedUpstream(OtherCode(), "x", "masked", "hidden_states", tmp_path)(wavs)["hidden_states"][0]
    torch.testing.assert_close(second, first + 1)


@pytest.mark.parametrize("kind", [LooksAtTheBatch, NeverTheSame], ids=["of-its-companions", "random"])
def test_an_upstream_whose_features_of_an_utterance_are_not_its_own_is_refused(tmp_path, kind):
    with pytest.raises(ValueError, match="--feature-cache: upstream x gives an utterance other features in a batch"):
        CachedUpstream(kind(), "x", "source", "hidden_states", tmp_path)


def test_features_left_by_other_code_are_not_taken_for_its_own(tmp_path):
    CachedUpstream(Upstream(), "x", "source", "hidden_states", tmp_path)
    with pytest.raises(ValueError, match="computed by other code; delete it"):
        CachedUpstream(OtherCode(), "x", "source", "hidden_states", tmp_path)


def test_training_mode_and_parameters_do_not_reach_the_upstream(tmp_path):
    upstream = Upstream()
    cached = CachedUpstream(upstream, "x", "source", "hidden_states", tmp_path).train()
    assert list(cached.parameters()) == [] and not upstream.training


def test_the_size_is_told_before_and_refused_where_there_is_no_room(tmp_path, monkeypatch):
    cached = CachedUpstream(Upstream(), "x", "source", "hidden_states", tmp_path)
    assert cached.bytes_per_second() == 2 * 50 * 5 * 4
    assert "2 layers x 5 channels" in cached.announce(60.0)
    monkeypatch.setattr(feature_cache.shutil, "disk_usage", lambda folder: SimpleNamespace(free=10))
    with pytest.raises(ValueError, match="there is no room"):
        cached.announce(60.0)


def test_a_full_disk_leaves_no_half_file_and_says_so(tmp_path, monkeypatch):
    cached, wavs = CachedUpstream(Upstream(), "x", "source", "hidden_states", tmp_path), waves(1000)

    def fill(file, array):
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(numpy, "save", fill)
        with pytest.raises(OSError, match="feature cache: No space left on device; free some room"):
            cached(wavs)
    assert [path.name for path in cached.folder.iterdir()] == ["probe.array"]
    cached(wavs)

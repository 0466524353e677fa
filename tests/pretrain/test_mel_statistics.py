# SPDX-License-Identifier: Apache-2.0
"""Statistics of log-mels are those of the corpus, of a bounded part of it, whatever is bad in it."""

import logging

import numpy as np
import pytest
import soundfile
import torch

pytest.importorskip("fairseq", reason="fairseq is not installed")
from encoders import LOG_MEL, small_encoder
from headrace_fairseq import mel_statistics
from headrace_fairseq.mel_statistics import Sums, drawn, measure
from headrace_labels.shards import read_manifest


def encoder_of(**changes):
    return small_encoder(torch.float32, mixer="full", **LOG_MEL, **changes)


def measured(data, seed=1, **changes):
    encoder = encoder_of(**changes)
    measure(encoder, data, "train", seed)
    return encoder.frontend.log_mel


def log_mels_by_definition(samples):
    """Of every window of 512 samples that ends with a multiple of 160, with silence before the first sample."""
    log_mel = encoder_of().frontend.log_mel
    padded = np.concatenate([np.zeros(512 - 160), samples])
    windows = np.stack([padded[end - 512 : end] for end in range(512, len(padded) + 1, 160)])
    power = np.abs(np.fft.rfft(windows * log_mel.window.numpy())) ** 2
    return np.log(np.maximum(power @ log_mel.filters.double().numpy(), 1e-10))


def frames_of(folder, normalize=False):
    manifest = read_manifest(folder, "train")
    found = []
    for index in range(len(manifest)):
        samples, _ = soundfile.read(manifest.audio(index))
        if normalize:
            samples = (samples - samples.mean()) / np.sqrt(samples.var() + 1e-5)
        found.append(log_mels_by_definition(samples))
    return np.concatenate(found)


@pytest.mark.parametrize("normalize", [False, True], ids=["as they are", "normalised waveforms"])
def test_they_are_those_of_all_frames_of_the_corpus(minute_corpus, normalize):
    log_mel, frames = measured(minute_corpus, normalize_waveform=normalize), frames_of(minute_corpus, normalize)
    np.testing.assert_allclose(log_mel.mean.numpy(), frames.mean(0), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(log_mel.std.numpy(), frames.std(0), rtol=1e-4, atol=1e-4)


def test_pieces_of_a_long_utterance_change_nothing(minute_corpus, monkeypatch):
    whole = measured(minute_corpus)
    monkeypatch.setattr(mel_statistics, "PIECE", 30)
    pieces = measured(minute_corpus)
    torch.testing.assert_close(pieces.mean, whole.mean)
    torch.testing.assert_close(pieces.std, whole.std)


def test_a_bounded_part_of_a_large_corpus_is_drawn_by_the_seed(minute_corpus):
    manifest = read_manifest(minute_corpus, "train")
    first = drawn(manifest, 3 * 16000, 1)
    assert 3 * 16000 <= sum(manifest.num_samples[index] for index in first) < 4 * 16000
    assert first == drawn(manifest, 3 * 16000, 1) != drawn(manifest, 3 * 16000, 2)
    assert sorted(drawn(manifest, 1e9, 1)) == list(range(24))


def test_it_is_told_in_the_log(minute_corpus, caplog, monkeypatch):
    monkeypatch.setattr(mel_statistics, "TOLD_EVERY_SECONDS", 0.0)
    with caplog.at_level(logging.INFO):
        measured(minute_corpus)
    assert "log-mel statistics: 12 of 24 utterances, " in caplog.text
    assert "log-mel statistics of 24 of 24 utterances of train, 0.3 min, drawn by seed 1: mean " in caplog.text


def test_a_bad_file_is_left_out_with_a_warning(corpus_of, tmp_path, caplog):
    good = corpus_of(tmp_path / "good", {"train": [0.5] * 3})
    expected = measured(good)
    soundfile.write(good / "audio" / "bad.flac", np.zeros(100), 16000)
    with (good / "train.tsv").open("a") as manifest:
        manifest.write("bad.flac\t8000\nmissing.flac\t8000\n")
    found = measured(good)
    assert caplog.text.count("left out of the log-mel statistics") == 2
    torch.testing.assert_close(found.mean, expected.mean)


def test_nothing_to_measure_is_named(corpus_of, tmp_path):
    folder = corpus_of(tmp_path / "short", {"train": [0.005]})
    with pytest.raises(
        ValueError, match=r"train.tsv: log-mel statistics need at least 2 windows of 512 samples, got 0"
    ):
        measured(folder)
    with pytest.raises(ValueError, match=r"train.tsv is not there; make it with"):
        measured(tmp_path)


def test_a_band_of_silence_is_not_blown_up(corpus_of, tmp_path):
    folder = corpus_of(tmp_path / "silence", {"train": [0.5]})
    soundfile.write(folder / "audio" / "train0.flac", np.zeros(8000), 16000)
    assert torch.equal(measured(folder).std, torch.full((20,), 0.1))


def test_other_front_ends_have_none(minute_corpus):
    encoder = small_encoder(torch.float32, mixer="full")
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    measure(encoder, minute_corpus, "train", 1)
    assert all(torch.equal(tensor, before[name]) for name, tensor in encoder.state_dict().items())


def test_sums_lose_no_digits_far_from_zero():
    x, sums = 1e6 + torch.randn(1000, 3, dtype=torch.float64), Sums()
    for piece in x.split(130):
        sums.add(piece)
    torch.testing.assert_close(sums.mean, x.mean(0), rtol=1e-12, atol=0)
    torch.testing.assert_close(sums.std, x.std(0, correction=0), rtol=1e-8, atol=0)

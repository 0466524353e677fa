# SPDX-License-Identifier: Apache-2.0
"""Features, their files and clusters: right, killable, and refused when they do not belong together."""

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("kaldi_native_fbank", reason="kaldi-native-fbank is not installed")
pytest.importorskip("sklearn", reason="scikit-learn is not installed")
from encoders import small_encoder
from headrace_downstream import compat
from headrace_labels import clusters
from headrace_labels.audio import read_audio
from headrace_labels.clusters import Clusters
from headrace_labels.feature_file import FeatureFile, dump
from headrace_labels.features import Layer, Mfcc, differences
from headrace_labels.frames import LiveFrames, StoredFrames
from headrace_labels.shards import Shard, read_manifest

# ---- shards ----


@given(total=st.integers(0, 200), nshard=st.integers(1, 40))
def test_parts_hold_every_utterance_once_in_order(total, nshard):
    parts = [Shard("train", nshard, rank).indices(total) for rank in range(nshard)]
    assert [index for part in parts for index in part] == list(range(total))


@pytest.mark.parametrize("rank", [-1, 4])
def test_a_part_that_is_none_is_refused(rank):
    with pytest.raises(ValueError, match=r"rank must be from 0 to nshard - 1 = 3"):
        Shard("train", 4, rank)


# ---- features ----


@pytest.mark.s3prl
@pytest.mark.filterwarnings("ignore")  # torchaudio and what s3prl imports warn of many things
def test_mfcc_are_kaldis_as_torchaudio_computes_them():
    compat.install()
    kaldi = pytest.importorskip("torchaudio.compliance.kaldi")
    waveform = torch.randn(1, 8000) * 0.1
    expected = kaldi.mfcc(waveform, sample_frequency=16000, use_energy=False)
    frames = Mfcc()(waveform[0].numpy())
    assert frames.shape == (Mfcc().num_frames(8000), 39)
    np.testing.assert_allclose(frames[:, :13], expected.numpy(), atol=2e-3, rtol=1e-4)


def test_differences_are_the_slope_of_a_line_through_five_frames():
    frames = np.random.default_rng(0).normal(size=(20, 3))
    t = np.arange(-2, 3)
    for i in range(2, 18):
        slope = np.polyfit(t, frames[i - 2 : i + 3], 1)[0]
        np.testing.assert_allclose(differences(frames)[i], slope, atol=1e-12)
    np.testing.assert_allclose(differences(np.ones((4, 2))), 0, atol=1e-15)


@pytest.mark.parametrize("num_samples", [0, 1, 399, 400, 559, 560, 16000])
def test_mfcc_have_as_many_frames_as_they_say(num_samples):
    assert len(Mfcc()(np.zeros(num_samples, np.float32))) == Mfcc().num_frames(num_samples)


@pytest.mark.parametrize("max_chunk", [405, 5000, 1_000_000])
@pytest.mark.parametrize("num_samples", [0, 100, 405, 5000, 5404, 16000])
def test_a_layer_gives_hidden_states_piece_by_piece(max_chunk, num_samples):
    encoder = small_encoder(torch.float32, mixer="llsa")
    features = Layer(encoder, 2, max(max_chunk, encoder.frontend.window_samples))
    samples = np.random.default_rng(0).normal(size=num_samples).astype(np.float32)
    found = features(samples)
    assert found.shape == (features.num_frames(num_samples), 16)
    assert features.num_frames(num_samples) == int(encoder.frontend.num_frames(torch.tensor(num_samples)))
    if num_samples <= max_chunk and len(found):
        expected = encoder(torch.from_numpy(samples)[None]).hidden_states[2][0]
        np.testing.assert_allclose(found, expected.detach().numpy(), atol=1e-6)


def test_a_layer_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match=r"layer must be from 0 to 3.* got 4"):
        Layer(small_encoder(torch.float32, mixer="llsa"), 4)


def test_an_encoder_of_another_sample_rate_is_refused():
    with pytest.raises(ValueError, match=r"encoder: expected one of speech at 16000 Hz, .* got one of 8000 Hz"):
        Layer(small_encoder(torch.float32, mixer="llsa", sample_rate=8000), 1)


def test_audio_that_was_edited_since_is_refused(tmp_path):
    path = tmp_path / "a.flac"
    soundfile.write(path, np.zeros(500), 16000)
    assert read_audio(path, 500).shape == (500,)
    with pytest.raises(ValueError, match="500 samples, its manifest says 499: the corpus was edited"):
        read_audio(path, 499)
    soundfile.write(path, np.zeros(500), 8000)
    with pytest.raises(ValueError, match="has 8000 Hz, expected 16000"):
        read_audio(path, 500)
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(ValueError, match=r"a\.flac cannot be read"):
        read_audio(path, 500)


# ---- files of features ----


def test_a_dump_holds_every_utterances_frames_and_is_not_made_twice(label_corpus, tmp_path):
    manifest = read_manifest(label_corpus, "train")
    for rank in range(2):
        dump(manifest, Shard("train", 2, rank), Mfcc(), tmp_path)
    files = [FeatureFile(tmp_path / f"train_{rank}_2") for rank in range(2)]
    found = [frames for file in files for frames in file.utterances()]
    for i, frames in enumerate(found):
        np.testing.assert_array_equal(frames, Mfcc()(read_audio(manifest.audio(i), manifest.num_samples[i])))
    assert np.load(tmp_path / "train_0_2.npy").shape == (files[0].num_frames, 39)  # as fairseq reads it
    before = (tmp_path / "train_0_2.npy").stat().st_mtime_ns
    dump(manifest, Shard("train", 2, 0), Mfcc(), tmp_path)
    assert (tmp_path / "train_0_2.npy").stat().st_mtime_ns == before


def test_frames_of_something_else_are_not_taken_for_these(label_corpus, corpus_of, tmp_path):
    shard, features = (
        Shard("train", 1, 0),
        [Layer(small_encoder(torch.float32, seed, mixer="llsa"), 1) for seed in (0, 1)],
    )
    dump(read_manifest(label_corpus, "train"), shard, features[0], tmp_path / "dump")
    other = read_manifest(corpus_of(tmp_path / "other", {"train": [0.4] * 5}), "train")
    for manifest, which in ((read_manifest(label_corpus, "train"), features[1]), (other, features[0])):
        with pytest.raises(ValueError, match="was dumped from another manifest or other features"):
            dump(manifest, shard, which, tmp_path / "dump")


@pytest.mark.parametrize(
    ("changes", "max_chunk"),
    [({"mixer": "full"}, 16000), ({"mixer": "llsa", "look_back": 6}, 16000), ({"mixer": "llsa"}, 8000)],
    ids=["another mixer", "another reach", "another max_chunk"],
)
def test_the_same_weights_seen_otherwise_are_other_features(label_corpus, tmp_path, changes, max_chunk):
    weights = small_encoder(torch.float32, mixer="llsa").state_dict()

    def layer(max_chunk, **changes):
        encoder = small_encoder(torch.float32, 1, **changes)
        encoder.load_state_dict(weights)
        return Layer(encoder, 1, max_chunk)

    manifest, shard = read_manifest(label_corpus, "train"), Shard("train", 1, 0)
    dump(manifest, shard, layer(16000, mixer="llsa"), tmp_path)
    dump(manifest, shard, layer(16000, mixer="llsa"), tmp_path)  # of the same: nothing to do
    with pytest.raises(ValueError, match="was dumped from another manifest or other features"):
        dump(manifest, shard, layer(max_chunk, **changes), tmp_path)


class Failing(Mfcc):
    """MFCC that are interrupted after some utterances."""

    def __init__(self, good):
        super().__init__()
        self.left = good

    def __call__(self, samples):
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1
        return super().__call__(samples)


def test_an_interrupted_dump_goes_on(label_corpus, tmp_path, monkeypatch):
    monkeypatch.setattr("headrace_labels.feature_file.NOTE_EVERY", 2)
    manifest, shard = read_manifest(label_corpus, "train"), Shard("train", 1, 0)
    dump(manifest, shard, Mfcc(), tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        dump(manifest, shard, Failing(3), tmp_path / "broken")
    assert not (tmp_path / "broken" / "train_0_1.len").exists()
    with pytest.raises(ValueError, match=r"train_0_1\.npy is not there: the part was not dumped"):
        FeatureFile(tmp_path / "broken" / "train_0_1")
    dump(manifest, shard, Failing(3), tmp_path / "broken")  # two were noted: three are left
    for name in ("train_0_1.npy", "train_0_1.len"):
        assert (tmp_path / "broken" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert sorted(path.name for path in (tmp_path / "broken").iterdir()) == [
        "train_0_1.len", "train_0_1.npy", "train_0_1.npy.note",
    ]  # fmt: skip


@pytest.mark.parametrize("spoil", ["cut short", "other lengths", "not numpy"])
def test_a_damaged_file_of_features_is_named(label_corpus, tmp_path, spoil):
    dump(read_manifest(label_corpus, "train"), Shard("train", 1, 0), Mfcc(), tmp_path)
    npy, lengths = tmp_path / "train_0_1.npy", tmp_path / "train_0_1.len"
    if spoil == "cut short":
        npy.write_bytes(npy.read_bytes()[:-100])
    elif spoil == "other lengths":
        lengths.write_text("3\n")
    else:
        npy.write_bytes(b"hello")
    with pytest.raises(ValueError, match=r"train_0_1\.npy (is damaged|holds)"):
        FeatureFile(tmp_path / "train_0_1")


# ---- frames ----


@pytest.fixture
def frames(label_corpus, tmp_path):
    manifest = read_manifest(label_corpus, "train")
    for rank in range(2):
        dump(manifest, Shard("train", 2, rank), Mfcc(), tmp_path)
    return StoredFrames([FeatureFile(tmp_path / f"train_{rank}_2") for rank in range(2)])


def test_stored_and_live_frames_are_the_same(frames, label_corpus):
    live = LiveFrames(read_manifest(label_corpus, "train"), range(5), Mfcc())
    stored = np.concatenate(list(frames.in_order()))
    np.testing.assert_array_equal(stored, np.concatenate(list(live.in_order())))
    assert frames.num_frames == live.num_frames == len(stored)
    positions = np.array([0, 3, 27, 28, 100, len(stored) - 1])
    np.testing.assert_array_equal(frames.at(positions), stored[positions])
    np.testing.assert_array_equal(live.at(positions), stored[positions])


@pytest.mark.parametrize("size", [1, 7, 100, 10_000])
def test_shuffled_batches_hold_every_frame_once(frames, size, monkeypatch):
    batches = list(frames.shuffled(size, seed=3))
    assert all(len(batch) == size for batch in batches[:-1])
    stored = np.concatenate(list(frames.in_order()))
    key = np.lexsort(stored.T)
    found = np.concatenate(batches)
    np.testing.assert_array_equal(found[np.lexsort(found.T)], stored[key])


def test_a_share_of_the_utterances_is_whole_utterances(label_corpus, tmp_path):
    dump(read_manifest(label_corpus, "train"), Shard("train", 1, 0), Mfcc(), tmp_path)
    file = FeatureFile(tmp_path / "train_0_1")
    counts = {StoredFrames([file], 0.2, seed).num_frames for seed in range(20)}
    assert counts <= set(file.lengths)
    assert StoredFrames([file], 1.0).num_frames == file.num_frames
    with pytest.raises(ValueError, match="percent must be"):
        StoredFrames([file], 0)


# ---- clusters and label files ----


def test_the_nearest_centroid_is_the_nearest():
    centroids, x = torch.randn(9, 5), torch.randn(5000, 5)
    labels, distances = Clusters(centroids).nearest(x)
    every = torch.cdist(x.double(), centroids.double()).square()
    torch.testing.assert_close(distances.double(), every.min(1).values, atol=1e-5, rtol=1e-5)
    assert torch.equal(labels, every.argmin(1))


@pytest.mark.parametrize("name", ["km.safetensors", "km.bin"])
def test_a_model_is_kept_in_both_formats(tmp_path, name):
    model = Clusters(torch.randn(6, 4))
    clusters.save(model, tmp_path / name)
    found = clusters.load(tmp_path / name)
    assert torch.equal(found.centroids, model.centroids)
    assert found.digest == model.digest


def test_fairseq_and_scikit_learn_can_use_the_joblib_file(tmp_path):
    import joblib

    model, x = Clusters(torch.randn(6, 4)), torch.randn(50, 4)
    clusters.save(model, tmp_path / "km.bin")
    theirs = joblib.load(tmp_path / "km.bin")
    labels = model.nearest(x)[0].numpy()
    np.testing.assert_array_equal(theirs.predict(x.numpy()), labels)
    C = theirs.cluster_centers_.transpose()  # what fairseq's dump_km_label.py computes
    distances = (x.numpy() ** 2).sum(1, keepdims=True) - 2 * x.numpy() @ C + (C**2).sum(0, keepdims=True)
    np.testing.assert_array_equal(distances.argmin(1), labels)


@pytest.mark.parametrize("content", [b"", b"hello", b"\x00" * 99], ids=["empty", "text", "zeros"])
@pytest.mark.parametrize("name", ["km.safetensors", "km.bin"])
def test_a_damaged_model_is_named(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match="holds no k-means model"):
        clusters.load(tmp_path / name)

# SPDX-License-Identifier: Apache-2.0
"""Features, their files, clusters and label files: right, killable, and refused when they do not belong together."""

import re
import runpy
import signal
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("kaldi_native_fbank", reason="kaldi-native-fbank is not installed")
pytest.importorskip("sklearn", reason="scikit-learn is not installed")
from encoders import small_encoder
from headrace import checkpoint
from headrace_downstream import compat
from headrace_labels import clusters, information, label_file
from headrace_labels.audio import read_audio
from headrace_labels.clusters import Clusters
from headrace_labels.feature_file import FeatureFile, dump
from headrace_labels.features import Layer, Mfcc, differences
from headrace_labels.frames import LiveFrames, StoredFrames
from headrace_labels.note import Note
from headrace_labels.shards import Shard, read_manifest


@pytest.fixture(scope="module")
def corpus(corpus_of, tmp_path_factory):
    return corpus_of(tmp_path_factory.mktemp("labels") / "noise", {"train": [0.3, 0.02, 0.7, 1.1, 0.5], "valid": [0.6]})


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


def test_a_dump_holds_every_utterances_frames_and_is_not_made_twice(corpus, tmp_path):
    manifest = read_manifest(corpus, "train")
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


def test_frames_of_something_else_are_not_taken_for_these(corpus, corpus_of, tmp_path):
    shard, features = (
        Shard("train", 1, 0),
        [Layer(small_encoder(torch.float32, seed, mixer="llsa"), 1) for seed in (0, 1)],
    )
    dump(read_manifest(corpus, "train"), shard, features[0], tmp_path / "dump")
    other = read_manifest(corpus_of(tmp_path / "other", {"train": [0.4] * 5}), "train")
    for manifest, which in ((read_manifest(corpus, "train"), features[1]), (other, features[0])):
        with pytest.raises(ValueError, match="was dumped from another manifest or other features"):
            dump(manifest, shard, which, tmp_path / "dump")


@pytest.mark.parametrize(
    ("changes", "max_chunk"),
    [({"mixer": "full"}, 16000), ({"mixer": "llsa", "look_back": 6}, 16000), ({"mixer": "llsa"}, 8000)],
    ids=["another mixer", "another reach", "another max_chunk"],
)
def test_the_same_weights_seen_otherwise_are_other_features(corpus, tmp_path, changes, max_chunk):
    weights = small_encoder(torch.float32, mixer="llsa").state_dict()

    def layer(max_chunk, **changes):
        encoder = small_encoder(torch.float32, 1, **changes)
        encoder.load_state_dict(weights)
        return Layer(encoder, 1, max_chunk)

    manifest, shard = read_manifest(corpus, "train"), Shard("train", 1, 0)
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


def test_an_interrupted_dump_goes_on(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr("headrace_labels.feature_file.NOTE_EVERY", 2)
    manifest, shard = read_manifest(corpus, "train"), Shard("train", 1, 0)
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
def test_a_damaged_file_of_features_is_named(corpus, tmp_path, spoil):
    dump(read_manifest(corpus, "train"), Shard("train", 1, 0), Mfcc(), tmp_path)
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
def frames(corpus, tmp_path):
    manifest = read_manifest(corpus, "train")
    for rank in range(2):
        dump(manifest, Shard("train", 2, rank), Mfcc(), tmp_path)
    return StoredFrames([FeatureFile(tmp_path / f"train_{rank}_2") for rank in range(2)])


def test_stored_and_live_frames_are_the_same(frames, corpus):
    live = LiveFrames(read_manifest(corpus, "train"), range(5), Mfcc())
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


def test_a_share_of_the_utterances_is_whole_utterances(corpus, tmp_path):
    dump(read_manifest(corpus, "train"), Shard("train", 1, 0), Mfcc(), tmp_path)
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


def test_labels_of_all_parts_are_joined_and_a_short_part_is_refused(corpus, tmp_path):
    manifest, model = read_manifest(corpus, "train"), Clusters(torch.randn(6, 39))
    note = Note(manifest.rows, model.digest, 100.0, "mfcc", 6)
    expected = []
    for rank in range(3):
        shard = Shard("train", 3, rank)
        items = [Mfcc()(read_audio(manifest.audio(i), manifest.num_samples[i])) for i in shard.indices(5)]
        expected += [model.nearest(torch.from_numpy(item))[0].numpy() for item in items]
        label_file.write_part(items, model, tmp_path / f"{shard.stem}.km")
    label_file.join_parts(tmp_path, "train", 3, manifest, note)
    for found, labels in zip(label_file.read_labels(tmp_path / "train.km"), expected, strict=True):
        np.testing.assert_array_equal(found, labels)
    assert (tmp_path / "dict.km.txt").read_text() == "0 1\n1 1\n2 1\n3 1\n4 1\n5 1\n"
    part = tmp_path / "train_1_3.km"
    part.write_text("".join(part.read_text().splitlines(True)[:-1]))
    with pytest.raises(ValueError, match=r"train_1_3\.km has \d lines, its part of .* has \d"):
        label_file.join_parts(tmp_path, "train", 3, manifest, note)
    part.unlink()
    with pytest.raises(ValueError, match="part 1 of 3 was not labelled"):
        label_file.join_parts(tmp_path, "train", 3, manifest, note)


def test_a_part_whose_labelling_breaks_is_not_left_as_it_was(corpus, tmp_path):
    manifest, shard = read_manifest(corpus, "train"), Shard("train", 1, 0)
    models = [Clusters(torch.randn(6, 39)) for _ in range(2)]
    items = [Mfcc()(read_audio(manifest.audio(i), manifest.num_samples[i])) for i in range(5)]

    def broken():
        yield items[0]
        raise KeyboardInterrupt

    label_file.write_part(items, models[0], tmp_path / f"{shard.stem}.km")
    with pytest.raises(KeyboardInterrupt):
        label_file.write_part(broken(), models[1], tmp_path / f"{shard.stem}.km")
    for model in models:
        with pytest.raises(ValueError, match=r"part 0 of 1 was not labelled|with another k-means model"):
            label_file.join_parts(tmp_path, "train", 1, manifest, Note(manifest.rows, model.digest, 100.0, "mfcc", 6))


# ---- the commands ----


def command(repository, script, *arguments, **options):
    line = [sys.executable, str(repository / "pretrain" / "labels" / script), *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, check=False, timeout=300, **options)


@pytest.fixture
def call(repository, monkeypatch):
    """Run a command's script in this process, which has imported torch already; the exit code."""

    def run(script, *arguments):
        path = str(repository / "pretrain" / "labels" / script)
        monkeypatch.setattr(sys, "argv", [path, *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(path, run_name="__main__")
        return ended.value.code

    return run


def test_the_commands_make_labels_with_fairseqs_arguments(call, corpus, tmp_path, capsys):
    model, labels = tmp_path / "km.bin", tmp_path / "l"
    for split in ("train", "valid"):
        for rank in range(2):
            assert call("dump_mfcc_feature.py", corpus, split, 2, rank, tmp_path) == 0
    assert call("learn_kmeans.py", tmp_path, "train", 2, model, 4, "--percent", -1) == 0
    assert "inertia" in capsys.readouterr().out
    for split in ("train", "valid"):
        for rank in range(2):
            assert call("dump_km_label.py", tmp_path, split, model, 2, rank, labels) == 0
        assert call("join_km_label.py", corpus, split, model, 2, labels, 100) == 0
    assert len(label_file.read_labels(labels / "train.km")) == 5
    assert call("learn_kmeans.py", tmp_path, "train", 2, tmp_path / "more.bin", 999) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("learn_kmeans.py: 999 clusters of ")


@pytest.fixture
def labelled_in_two_parts(call, corpus, tmp_path):
    """A folder with both parts of train, labelled with old.safetensors; new.safetensors is beside them."""
    for seed, name in enumerate(("old", "new")):
        centroids = torch.randn(4, 39, generator=torch.Generator().manual_seed(seed))
        clusters.save(Clusters(centroids), tmp_path / f"{name}.safetensors")
    for rank in range(2):
        assert call("dump_mfcc_feature.py", corpus, "train", 2, rank, tmp_path) == 0
        assert call("dump_km_label.py", tmp_path, "train", tmp_path / "old.safetensors", 2, rank, tmp_path) == 0
    return tmp_path


def test_a_part_of_another_k_means_model_is_not_joined(call, corpus, labelled_in_two_parts, capsys):
    folder, new = labelled_in_two_parts, labelled_in_two_parts / "new.safetensors"
    assert call("join_km_label.py", corpus, "train", folder / "old.safetensors", 2, folder, 100) == 0
    before = (folder / "train.km").read_bytes()
    assert call("dump_km_label.py", folder, "train", new, 2, 0, folder) == 0  # and the job of part 1 failed
    assert call("join_km_label.py", corpus, "train", new, 2, folder, 100) == 2
    (line,) = capsys.readouterr().err.splitlines()[-1:]
    assert re.search(r"train_1_2\.km was labelled with another k-means model .*[Ll]abel the part again", line)
    assert (folder / "train.km").read_bytes() == before
    assert call("dump_km_label.py", folder, "train", new, 2, 1, folder) == 0
    assert call("join_km_label.py", corpus, "train", new, 2, folder, 100) == 0
    assert "without a note" not in capsys.readouterr().out


def test_a_part_of_another_manifest_is_not_joined(call, labelled_in_two_parts, corpus_of, capsys):
    folder = labelled_in_two_parts
    other = corpus_of(folder / "other", {"train": [0.4] * 5})  # as many lines
    assert call("join_km_label.py", other, "train", folder / "old.safetensors", 2, folder, 100) == 2
    assert "train_0_2.km was labelled for another manifest" in capsys.readouterr().err.splitlines()[-1]


def test_parts_that_fairseq_labelled_have_no_note_and_are_joined(call, corpus, labelled_in_two_parts, capsys):
    folder = labelled_in_two_parts
    (folder / "train_1_2.km.note").unlink()
    assert call("join_km_label.py", corpus, "train", folder / "old.safetensors", 2, folder, 100) == 0
    assert "1 of 2 parts without a note" in capsys.readouterr().out


@pytest.mark.parametrize("change", ["a line more", "a line less", "another manifest"])
def test_labels_that_are_not_the_manifests_are_not_measured(
    call, corpus, corpus_of, labelled_in_two_parts, change, capsys
):
    folder, manifests = labelled_in_two_parts, corpus
    assert call("join_km_label.py", corpus, "train", folder / "old.safetensors", 2, folder, 100) == 0
    lines = (folder / "train.km").read_text().splitlines(True)
    said = rf"train\.km has {4 if change == 'a line less' else 6} lines and .*train\.tsv lists 5 files"
    if change == "another manifest":
        manifests, said = corpus_of(folder / "other", {"train": [0.4] * 5}), r"train\.km was made for another manifest"
    else:
        (folder / "train.km").write_text("".join(lines + lines[:1] if change == "a line more" else lines[:-1]))
    names = [line.partition("\t")[0] for line in (manifests / "train.tsv").read_text().splitlines()[1:]]
    said_there = "".join(f"{name.rpartition('/')[2].partition('.')[0]} SOME WORDS\n" for name in names)
    (folder / "all.trans.txt").write_text(said_there)
    assert call("measure_labels.py", manifests, "train", folder, folder) == 2
    (line,) = capsys.readouterr().err.splitlines()[-1:]
    assert re.search(said, line)


@pytest.fixture
def full_disk_commands(corpus, tmp_path):
    """Commands that write a part of train to tmp_path: arguments, the bytes that fit, the file that tells the end."""
    encoder, model = tmp_path / "encoder", tmp_path / "km.safetensors"
    checkpoint.save(small_encoder(torch.float32, mixer="llsa"), encoder)
    clusters.save(Clusters(torch.randn(6, 39)), model)
    return {
        "dump_mfcc_feature.py": ((corpus, "train", 1, 0, tmp_path), 20_000, "train_0_1.len"),
        "dump_hubert_feature.py": ((corpus, "train", encoder, 2, 1, 0, tmp_path), 4_000, "train_0_1.len"),
        "label_audio.py": ((corpus, model, tmp_path, "train"), 300, "train.km"),
    }


@pytest.mark.parametrize("script", ["dump_mfcc_feature.py", "dump_hubert_feature.py", "label_audio.py"])
def test_a_full_disk_is_one_line_and_the_command_goes_on(repository, call, full_disk_commands, script, tmp_path):
    import resource

    arguments, room, last = full_disk_commands[script]

    def small_files():
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    done = command(repository, script, *arguments, preexec_fn=small_files)
    assert done.returncode == 1, done.stderr
    assert re.match(rf"{script}: .*File too large", done.stderr.splitlines()[-1])
    assert "Traceback" not in done.stderr
    assert not (tmp_path / last).exists()
    assert call(script, *arguments) == 0
    assert len((tmp_path / last).read_text().splitlines()) == 5


# ---- what labels tell ----


def test_labels_that_are_the_characters_tell_everything_and_constant_ones_nothing(tmp_path):
    texts, rate = ["AB BA", "CAB"], 50
    lines = [str(tmp_path)]
    for i, text in enumerate(texts):
        samples = np.zeros(16000)
        samples[4000:12000] = np.random.default_rng(i).normal(0, 0.1, 8000)
        soundfile.write(tmp_path / f"u{i}.flac", samples, 16000)
        lines.append(f"u{i}.flac\t16000")
        (tmp_path / f"{i}.trans.txt").write_text(f"u{i} {text}\n")
    (tmp_path / "train.tsv").write_text("\n".join(lines) + "\n")
    manifest, transcripts = read_manifest(tmp_path, "train"), information.read_transcripts(tmp_path)
    assert transcripts == {"u0": "AB BA", "u1": "CAB"}
    letters = [np.array([ord(letter) for letter in text.replace(" ", "")]) for text in texts]
    exact = [one[information.places(len(one), 0.25, 0.75, rate, rate)] for one in letters]
    assert information.measure(manifest, exact, rate, transcripts).share == pytest.approx(1, abs=0.02)
    nothing = information.measure(manifest, [np.zeros(rate, int)] * 2, rate, transcripts)
    assert (nothing.share, nothing.utterances, nothing.clusters) == (pytest.approx(0, abs=1e-9), 2, 1)
    with pytest.raises(ValueError, match="no utterance of the manifest has a transcript"):
        information.measure(manifest, exact, rate, {})


def test_what_labels_tell_by_chance_is_what_they_know_of_the_utterance_not_of_its_order(tmp_path):
    texts, rate = ["ABABABAB", "CDCDCDCD"], 50
    lines = [str(tmp_path)]
    for i, text in enumerate(texts):
        samples = np.random.default_rng(i).normal(0, 0.1, 16000)
        soundfile.write(tmp_path / f"u{i}.flac", samples, 16000)
        lines.append(f"u{i}.flac\t16000")
        (tmp_path / f"{i}.trans.txt").write_text(f"u{i} {text}\n")
    (tmp_path / "train.tsv").write_text("\n".join(lines) + "\n")
    manifest, transcripts = read_manifest(tmp_path, "train"), information.read_transcripts(tmp_path)
    speaker = information.measure(manifest, [np.full(rate, 0), np.full(rate, 1)], rate, transcripts)
    assert speaker.share == pytest.approx(0.5, abs=0.01)  # one of two bits: which two letters, not which of them
    assert speaker.chance == pytest.approx(speaker.share, abs=0.01)
    letters = [np.array([ord(letter) for letter in text]) for text in texts]
    exact = [one[information.places(len(one), 0, 1, rate, rate)] for one in letters]
    spoken = information.measure(manifest, exact, rate, transcripts)
    assert spoken.share == pytest.approx(1, abs=0.02)
    assert spoken.chance == pytest.approx(0.5, abs=0.25)

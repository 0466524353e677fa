# SPDX-License-Identifier: Apache-2.0
"""Label files and the commands that make them: joined where they belong together, gone on with, one line when wrong."""

import re
import runpy
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch

pytest.importorskip("kaldi_native_fbank", reason="kaldi-native-fbank is not installed")
pytest.importorskip("sklearn", reason="scikit-learn is not installed")
from encoders import small_encoder
from headrace import checkpoint
from headrace_labels import clusters, label_file
from headrace_labels.audio import read_audio
from headrace_labels.clusters import Clusters
from headrace_labels.features import Mfcc
from headrace_labels.note import Note
from headrace_labels.shards import Shard, read_manifest


def test_labels_of_all_parts_are_joined_and_a_short_part_is_refused(label_corpus, tmp_path):
    manifest, model = read_manifest(label_corpus, "train"), Clusters(torch.randn(6, 39))
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


def test_a_part_whose_labelling_breaks_is_not_left_as_it_was(label_corpus, tmp_path):
    manifest, shard = read_manifest(label_corpus, "train"), Shard("train", 1, 0)
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


def test_the_commands_make_labels_with_fairseqs_arguments(call, label_corpus, tmp_path, capsys):
    model, labels = tmp_path / "km.bin", tmp_path / "l"
    for split in ("train", "valid"):
        for rank in range(2):
            assert call("dump_mfcc_feature.py", label_corpus, split, 2, rank, tmp_path) == 0
    assert call("learn_kmeans.py", tmp_path, "train", 2, model, 4, "--percent", -1) == 0
    assert "inertia" in capsys.readouterr().out
    for split in ("train", "valid"):
        for rank in range(2):
            assert call("dump_km_label.py", tmp_path, split, model, 2, rank, labels) == 0
        assert call("join_km_label.py", label_corpus, split, model, 2, labels, 100) == 0
    assert len(label_file.read_labels(labels / "train.km")) == 5
    assert call("learn_kmeans.py", tmp_path, "train", 2, tmp_path / "more.bin", 999) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("learn_kmeans.py: 999 clusters of ")


@pytest.fixture
def labelled_in_two_parts(call, label_corpus, tmp_path):
    """A folder with both parts of train, labelled with old.safetensors; new.safetensors is beside them."""
    for seed, name in enumerate(("old", "new")):
        centroids = torch.randn(4, 39, generator=torch.Generator().manual_seed(seed))
        clusters.save(Clusters(centroids), tmp_path / f"{name}.safetensors")
    for rank in range(2):
        assert call("dump_mfcc_feature.py", label_corpus, "train", 2, rank, tmp_path) == 0
        assert call("dump_km_label.py", tmp_path, "train", tmp_path / "old.safetensors", 2, rank, tmp_path) == 0
    return tmp_path


def test_a_part_of_another_k_means_model_is_not_joined(call, label_corpus, labelled_in_two_parts, capsys):
    folder, new = labelled_in_two_parts, labelled_in_two_parts / "new.safetensors"
    assert call("join_km_label.py", label_corpus, "train", folder / "old.safetensors", 2, folder, 100) == 0
    before = (folder / "train.km").read_bytes()
    assert call("dump_km_label.py", folder, "train", new, 2, 0, folder) == 0  # and the job of part 1 failed
    assert call("join_km_label.py", label_corpus, "train", new, 2, folder, 100) == 2
    (line,) = capsys.readouterr().err.splitlines()[-1:]
    assert re.search(r"train_1_2\.km was labelled with another k-means model .*[Ll]abel the part again", line)
    assert (folder / "train.km").read_bytes() == before
    assert call("dump_km_label.py", folder, "train", new, 2, 1, folder) == 0
    assert call("join_km_label.py", label_corpus, "train", new, 2, folder, 100) == 0
    assert "without a note" not in capsys.readouterr().out


def test_a_part_of_another_manifest_is_not_joined(call, labelled_in_two_parts, corpus_of, capsys):
    folder = labelled_in_two_parts
    other = corpus_of(folder / "other", {"train": [0.4] * 5})  # as many lines
    assert call("join_km_label.py", other, "train", folder / "old.safetensors", 2, folder, 100) == 2
    assert "train_0_2.km was labelled for another manifest" in capsys.readouterr().err.splitlines()[-1]


def test_parts_that_fairseq_labelled_have_no_note_and_are_joined(call, label_corpus, labelled_in_two_parts, capsys):
    folder = labelled_in_two_parts
    (folder / "train_1_2.km.note").unlink()
    assert call("join_km_label.py", label_corpus, "train", folder / "old.safetensors", 2, folder, 100) == 0
    assert "1 of 2 parts without a note" in capsys.readouterr().out


@pytest.mark.parametrize("change", ["a line more", "a line less", "another manifest"])
def test_labels_that_are_not_the_manifests_are_not_measured(
    call, label_corpus, corpus_of, labelled_in_two_parts, change, capsys
):
    folder, manifests = labelled_in_two_parts, label_corpus
    assert call("join_km_label.py", label_corpus, "train", folder / "old.safetensors", 2, folder, 100) == 0
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
def full_disk_commands(label_corpus, tmp_path):
    """Commands that write a part of train to tmp_path: arguments, the bytes that fit, the file that tells the end."""
    encoder, model = tmp_path / "encoder", tmp_path / "km.safetensors"
    checkpoint.save(small_encoder(torch.float32, mixer="llsa"), encoder)
    clusters.save(Clusters(torch.randn(6, 39)), model)
    return {
        "dump_mfcc_feature.py": ((label_corpus, "train", 1, 0, tmp_path), 20_000, "train_0_1.len"),
        "dump_hubert_feature.py": ((label_corpus, "train", encoder, 2, 1, 0, tmp_path), 4_000, "train_0_1.len"),
        "label_audio.py": ((label_corpus, model, tmp_path, "train"), 300, "train.km"),
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

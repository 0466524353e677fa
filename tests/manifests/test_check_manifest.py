# SPDX-License-Identifier: Apache-2.0
"""check_manifest.py: a manifest that points nowhere, or labels of the wrong length, are found before training."""

import pytest

import check_manifest
from headrace_manifests.command import run
from headrace_manifests.files import write_manifest
from manifests.corpora import write_audio


@pytest.fixture
def manifest(tmp_path):
    names = [f"{index}.flac" for index in range(3)]
    for name in names:
        write_audio(tmp_path / "corpus" / name)
    write_manifest(tmp_path / "train.tsv", tmp_path / "corpus", [(name, 8000) for name in names])
    (tmp_path / "train.ltr").write_text("A |\nB |\nC |\n")
    return tmp_path / "train.tsv"


def test_a_sound_manifest_passes(manifest, capsys):
    assert run(check_manifest.main, [str(manifest)]) == 0
    assert "3 files and their .ltr are there" in capsys.readouterr().out


def move_corpus(manifest):
    (manifest.parent / "corpus").rename(manifest.parent / "moved")


def lose_a_file(manifest):
    (manifest.parent / "corpus/1.flac").unlink()


def shorten_labels(manifest):
    manifest.with_suffix(".ltr").write_text("A |\nB |\n")


def break_row(manifest):
    manifest.write_text(manifest.read_text() + "3.flac 8000\n")


def zero_length(manifest):
    manifest.write_text(manifest.read_text() + "3.flac\t0\n")


def no_rows(manifest):
    manifest.write_text(manifest.read_text().splitlines()[0] + "\n")


def delete(manifest):
    manifest.unlink()


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (move_corpus, "corpus is not there"),
        (lose_a_file, "1 of 3 files are missing"),
        (shorten_labels, "2 lines for the 3 files of train.tsv"),
        (break_row, "line 5: expected 'path<TAB>number of samples', got '3.flac 8000'"),
        (zero_length, "line 5: expected"),
        (no_rows, "lists no file"),
        (delete, "No such file"),
    ],
)
def test_harm_gives_one_line_and_code_2(manifest, capsys, harm, words):
    harm(manifest)
    assert run(check_manifest.main, [str(manifest)]) == 2
    error = capsys.readouterr().err.splitlines()
    assert len(error) == 1 and words in error[0]

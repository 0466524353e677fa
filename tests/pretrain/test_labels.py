# SPDX-License-Identifier: Apache-2.0
"""Labels that do not belong to the audio are refused, each with its reason."""

from types import SimpleNamespace

import pytest

pytest.importorskip("fairseq", reason="fairseq is not installed")
from headrace_fairseq import labels
from headrace_fairseq.manifest import digest_rows
from headrace_labels.note import Note, write_note

SECONDS = [1.0, 0.5, 2.0]


@pytest.fixture
def folder(tmp_path):
    for split in ("train", "valid"):
        rows = [f"{split}{i}.flac\t{int(16000 * seconds)}" for i, seconds in enumerate(SECONDS)]
        (tmp_path / f"{split}.tsv").write_text("\n".join(["/audio", *rows]) + "\n")
        write(tmp_path, split, [["0", "1"] * int(25 * seconds) for seconds in SECONDS])
        note(tmp_path, split)
    (tmp_path / "dict.km.txt").write_text("0 1\n1 1\n2 1\n")
    return tmp_path


def write(folder, split, lines):
    (folder / f"{split}.km").write_text("".join(" ".join(line) + "\n" for line in lines))


def note(folder, split, **changes):
    values = {"manifest_rows": digest_rows(str(folder), split), "kmeans": "abc", "label_rate": 50.0}
    values |= {"features": "mfcc", "num_clusters": 3} | changes
    write_note(folder / f"{split}.km", Note(**values))


def task(folder, **changes):
    values = {"data": str(folder), "label_dir": None, "labels": ["km"], "label_rate": 50.0, "sample_rate": 16000}
    return SimpleNamespace(**(values | changes))


def change_line(folder, number, line):
    lines = (folder / "train.km").read_text().splitlines()
    lines[number] = line
    (folder / "train.km").write_text("\n".join(lines) + "\n")


def test_labels_that_belong_are_taken(folder):
    labels.check_dictionaries(task(folder))
    for split in ("train", "valid"):
        labels.check(task(folder), split)
    for path in folder.glob("*.json"):  # as others make them
        path.unlink()
    labels.check(task(folder), "train")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        pytest.param(lambda f: change_line(f, 1, "0 7"), r"line 2: '7' is not in the dictionary of 3", id="unknown"),
        pytest.param(lambda f: change_line(f, 2, "0 1 0"), r"line 3: 3 labels .* the audio is 2.00", id="short line"),
        pytest.param(lambda f: write(f, "train", [["0"] * 50] * 2), "2 lines and .* lists 3 files", id="a line short"),
        pytest.param(lambda f: write(f, "train", [["0"] * int(100 * s) for s in SECONDS]),
                     r"look like 100 a second, set task.label_rate=100", id="another rate"),
        pytest.param(lambda f: note(f, "train", label_rate=100.0), "train.km has 100 labels a second", id="noted rate"),
        pytest.param(lambda f: note(f, "train", manifest_rows="0" * 64), "made for another manifest", id="manifest"),
        pytest.param(lambda f: note(f, "valid", kmeans="xyz"), "different k-means models", id="two models"),
        pytest.param(lambda f: (f / "dict.km.txt").write_text(""), "names 0 clusters", id="empty dictionary"),
        pytest.param(lambda f: (f / "dict.km.txt").write_text("0\n"), "expected 'cluster count'", id="odd dictionary"),
    ],
)  # fmt: skip
def test_labels_that_do_not_belong_are_refused_in_one_line(folder, spoil, said):
    spoil(folder)
    with pytest.raises(ValueError, match=said) as error:
        labels.check(task(folder), "train")
    assert "\n" not in str(error.value)


def test_the_digest_is_of_the_labels_alone(folder, tmp_path_factory):
    first = labels.digest(task(folder), "train")
    assert labels.digest(task(folder, label_dir=str(folder)), "train") == first
    change_line(folder, 0, " ".join(["1"] * 50))
    assert labels.digest(task(folder), "train") != first
    assert labels.digest(task(folder), "test") is None

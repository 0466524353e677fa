# SPDX-License-Identifier: Apache-2.0
"""A manifest that cannot be trained on is refused before the first update."""

import pytest

pytest.importorskip("fairseq", reason="fairseq is not installed")
from headrace_fairseq.manifest import check_folder, check_manifest, digest_rows


@pytest.fixture
def folder(tmp_path):
    for i in range(3):
        (tmp_path / f"{i}.flac").touch()
    (tmp_path / "train.tsv").write_text(f"{tmp_path}\n0.flac\t16000\n1.flac\t32000\n2.flac\t8000\n")
    return tmp_path


def test_a_good_manifest_passes(folder):
    check_folder(str(folder))
    check_manifest(str(folder), "train", 16000)
    check_manifest(str(folder), "train", None)


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["{root}"], "lists 0 files"),
        ([], "lists 0 files"),
        (
            ["{root}", "0.flac\t15999"],
            r"lists 1 files, none of them with at least 16000 samples \(task.min_sample_size\)",
        ),
        (
            ["{root}", "0.flac\t16000", "1.flac 32000"],
            r"line 3: expected 'path<tab>number of samples', got '1.flac 32000'",
        ),
        (["{root}", "0.flac\t-1"], "line 2"),
        (["{root}", "0.flac\t16000\textra"], "line 2"),
        (
            ["/nowhere", "0.flac\t16000"],
            "points nowhere: 1 of 1 files tried do not exist, the first is /nowhere/0.flac",
        ),
        (["{root}", "0.flac\t16000", "9.flac\t16000"], "points nowhere: 1 of 2"),
    ],
    ids=["empty", "zero bytes", "all too short", "no tab", "negative", "three columns", "no root", "file gone"],
)
def test_a_bad_manifest_is_refused_in_one_line(folder, lines, expected):
    (folder / "train.tsv").write_text("\n".join(lines).format(root=folder))
    with pytest.raises(ValueError, match=expected) as error:
        check_manifest(str(folder), "train", 16000)
    assert "\n" not in str(error.value)


def test_no_manifest_says_how_to_make_one(folder):
    with pytest.raises(
        ValueError, match=r"has no valid.tsv. Make its manifests with: python manifests/wav2vec_manifest.py"
    ):
        check_manifest(str(folder), "valid", 0)
    with pytest.raises(ValueError, match="is not a folder"):
        check_folder(str(folder / "nowhere"))


def test_audio_in_an_archive_is_not_looked_for(folder):
    (folder / "train.tsv").write_text(f"{folder}\nall.zip:10:200\t16000\n")
    check_manifest(str(folder), "train", 0)


def write_many(folder, missing):
    """A manifest of 1000 files, of which those with the numbers ``missing`` do not exist."""
    for i in set(range(1000)) - set(missing):
        (folder / f"many{i}.flac").touch()
    (folder / "train.tsv").write_text(f"{folder}\n" + "".join(f"many{i}.flac\t16000\n" for i in range(1000)))


def test_one_percent_of_missing_files_may_be_left_out_later(folder):
    write_many(folder, missing=range(10))  # two of the 200 that are tried
    check_manifest(str(folder), "train", 0)


def test_files_are_tried_all_over_the_manifest(folder):
    write_many(folder, missing=range(900, 1000))
    with pytest.raises(ValueError, match=r"20 of 200 files tried do not exist, the first is .*/many900.flac"):
        check_manifest(str(folder), "train", 0)


def test_rows_are_the_same_corpus_under_any_root(folder):
    first = digest_rows(str(folder), "train")
    (folder / "moved.tsv").write_text("/elsewhere\n" + "\n".join((folder / "train.tsv").read_text().splitlines()[1:]))
    (folder / "sorted.tsv").write_text("/elsewhere\n1.flac\t32000\n0.flac\t16000\n2.flac\t8000\n")
    assert digest_rows(str(folder), "moved") == first
    assert digest_rows(str(folder), "sorted") not in (first, None)
    assert digest_rows(str(folder), "nowhere") is None

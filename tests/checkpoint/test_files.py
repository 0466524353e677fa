# SPDX-License-Identifier: Apache-2.0
"""Files and folders appear whole or not at all, whatever fails or kills, and are on the disk by then."""

import multiprocessing
import os
import signal
from pathlib import Path

import pytest
import torch

from encoders import small_encoder
from headrace.checkpoint import files, from_fairseq, from_transformers, to_fairseq, to_transformers
from headrace.checkpoint.files import written_whole

ACAUSAL = {"mixer": "full", "positions": "conv"}


def write(path, text):
    """A folder with two files."""
    with written_whole(path) as partial:
        partial.mkdir()
        for name in "ab":
            (partial / name).write_text(text)


def read(path):
    return {file.name: file.read_text() for file in path.iterdir()}


BOTH = pytest.mark.parametrize("exchanges", [True, False], ids=["exchange", "two renames"])


@pytest.fixture
def only(monkeypatch):
    """Leaves the file system one way to replace a folder."""

    def choose(exchanges):
        if not exchanges:
            monkeypatch.setattr(files, "_exchange", lambda one, other: False)

    return choose


@BOTH
def test_a_folder_takes_the_place_of_another_whole(exchanges, only, tmp_path):
    only(exchanges)
    for text in ("first", "second"):
        write(tmp_path / "folder", text)
        assert read(tmp_path / "folder") == {"a": text, "b": text}
        assert [path.name for path in tmp_path.iterdir()] == ["folder"]
    assert (tmp_path / "folder").stat().st_mode == plain_folder(tmp_path / "plain").stat().st_mode


def plain_folder(path):
    path.mkdir()
    return path


@BOTH
def test_an_error_in_the_block_leaves_what_was_there(exchanges, only, tmp_path):
    only(exchanges)
    write(tmp_path / "folder", "first")
    with pytest.raises(RuntimeError, match="mine"), written_whole(tmp_path / "folder") as partial:
        partial.mkdir()
        raise RuntimeError("mine")
    assert read(tmp_path / "folder") == {"a": "first", "b": "first"}
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_when_the_second_rename_fails_the_old_folder_is_put_back(only, tmp_path, monkeypatch):
    only(False)
    write(tmp_path / "folder", "first")
    replace = os.replace

    def fail(source, target):
        if ".partial-" in str(source):
            raise OSError("mine")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="mine"):
        write(tmp_path / "folder", "second")
    assert read(tmp_path / "folder") == {"a": "first", "b": "first"}
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def killed(function, path):
    """Run ``function``, which kills itself, in a process of its own; what it leaves."""
    process = multiprocessing.get_context("fork").Process(target=function, args=(path,))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    return sorted(file.name.partition("-")[0] for file in path.parent.iterdir())


def kill_before_the_exchange(path):
    files._exchange = lambda one, other: os.kill(os.getpid(), signal.SIGKILL)
    write(path, "second")


def kill_after_the_exchange(path):
    exchange = files._exchange
    files._exchange = lambda one, other: exchange(one, other) and os.kill(os.getpid(), signal.SIGKILL)
    write(path, "second")


def kill_between_the_renames(path):
    replace = os.replace
    files._exchange = lambda one, other: False
    os.replace = lambda source, target: replace(source, target) or os.kill(os.getpid(), signal.SIGKILL)
    write(path, "second")


def test_a_kill_finds_the_old_or_the_new_folder_whole(tmp_path):
    path = tmp_path / "folder"
    if not files._exchange(plain_folder(tmp_path / "one"), plain_folder(tmp_path / "other")):
        pytest.skip("the file system of the temporary folder cannot exchange two names")
    for name in ("one", "other"):
        (tmp_path / name).rmdir()
    write(path, "first")
    assert killed(kill_before_the_exchange, path) == [".folder.partial", "folder"]
    assert read(path) == {"a": "first", "b": "first"}
    assert "folder" in killed(kill_after_the_exchange, path)
    assert read(path) == {"a": "second", "b": "second"}


def test_a_kill_between_two_renames_loses_nothing(tmp_path):
    path = tmp_path / "folder"
    write(path, "first")
    assert killed(kill_between_the_renames, path) == [".folder.old", ".folder.partial"]
    (old,) = tmp_path.glob(".folder.old-*")
    assert read(old) == {"a": "first", "b": "first"}


def test_all_is_on_the_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    flushed = []
    fsync = os.fsync

    def watch(descriptor):
        flushed.append((Path(f"/proc/self/fd/{descriptor}").readlink().name, (tmp_path / "folder").exists()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", watch)
    write(tmp_path / "folder", "first")
    *before, last = flushed
    assert sorted(before) == [("a", False), ("b", False), ("folder", False)]
    assert last == (tmp_path.name, True)


def test_a_disk_that_fails_at_the_flush_leaves_what_was_there(tmp_path, monkeypatch):
    write(tmp_path / "folder", "first")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write(tmp_path / "folder", "second")
    assert read(tmp_path / "folder") == {"a": "first", "b": "first"}
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


@pytest.mark.parametrize(
    ("save", "load"),
    [(to_fairseq, from_fairseq), (to_transformers, from_transformers)],
    ids=["fairseq", "transformers"],
)
def test_a_full_disk_leaves_the_other_formats_whole(save, load, tmp_path, request):
    first, second = (small_encoder(torch.float32, seed=seed, **ACAUSAL) for seed in (0, 1))
    save(first, tmp_path / "x")
    request.getfixturevalue("full_disk")
    with pytest.raises(OSError, match="could not be written"):
        save(second, tmp_path / "x")
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    found, expected = load(tmp_path / "x").state_dict(), first.state_dict()
    assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items())


def test_the_library_has_one_function_that_renames(repository):
    texts = {path.name: path.read_text() for path in (repository / "headrace").rglob("*.py")}
    renaming = ("os.replace", ".rename(", ".replace(path)", "shutil.move", "mkstemp", "mkdtemp")
    assert [name for name, text in texts.items() if any(word in text for word in renaming)] == ["files.py"]

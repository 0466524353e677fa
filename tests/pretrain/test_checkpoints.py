# SPDX-License-Identifier: Apache-2.0
"""Checkpoint files appear whole or not at all."""

import errno
import multiprocessing
import os
import time

import pytest
import torch

pytest.importorskip("fairseq", reason="fairseq is not installed")
from fairseq import checkpoint_utils
from fairseq.file_io import PathManager

from headrace_fairseq import checkpoints

SIZE = 2**23


def no_space(file):
    file.write(b"half")
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_fairseq_uses_these():
    assert checkpoint_utils.torch_persistent_save is checkpoints.save
    assert PathManager.copy is checkpoints.copy


def test_saved_and_copied_files_are_read_back(tmp_path):
    a, b = str(tmp_path / "a.pt"), str(tmp_path / "b.pt")
    checkpoints.save({"x": torch.arange(5)}, a)
    assert checkpoints.copy(a, b, overwrite=True)
    assert torch.equal(torch.load(b)["x"], torch.arange(5))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.pt", "b.pt"]


def test_copy_leaves_a_file_that_it_may_not_overwrite(tmp_path):
    (tmp_path / "a").write_bytes(b"new")
    (tmp_path / "b").write_bytes(b"old")
    assert not checkpoints.copy(str(tmp_path / "a"), str(tmp_path / "b"))
    assert (tmp_path / "b").read_bytes() == b"old"


def test_full_disk_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "checkpoint_last.pt"
    path.write_bytes(b"old and whole")
    with pytest.raises(
        OSError, match=r"checkpoint_last.pt was not saved: No space left on device.*is whole.*Make room"
    ):
        checkpoints.write_whole(str(path), no_space)
    assert path.read_bytes() == b"old and whole"
    assert list(tmp_path.iterdir()) == [path]


def test_torch_reports_a_full_disk_with_its_reason(tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "save", lambda obj, file: no_space(file))
    with pytest.raises(OSError, match="No space left on device"):
        checkpoints.save({}, str(tmp_path / "checkpoint_1_100.pt"))


def test_a_copy_killed_at_any_moment_is_whole(tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_bytes(b"o" * SIZE)
    new.write_bytes(b"n" * SIZE)
    last = tmp_path / "checkpoint_last.pt"
    for moment in range(5):
        process = multiprocessing.get_context("fork").Process(target=_copy_forever, args=(old, new, last))
        process.start()
        while not last.exists():
            time.sleep(0.001)
        time.sleep(0.004 + 0.009 * moment)
        process.kill()
        process.join()
        assert last.read_bytes() in (b"o" * SIZE, b"n" * SIZE)


def _copy_forever(old, new, last):
    while True:
        for source in (old, new):
            checkpoints.copy(str(source), str(last), overwrite=True)

# SPDX-License-Identifier: Apache-2.0
import os
from pathlib import Path

import pytest

from headrace_downstream.files import appears_whole, remove_halves, write_whole


def test_a_file_appears_when_it_is_whole_and_on_the_disk(tmp_path, monkeypatch):
    path, synced = tmp_path / "new" / "score.json", []
    monkeypatch.setattr(os, "fsync", lambda number: synced.append(str(Path(f"/proc/self/fd/{number}").readlink())))
    with appears_whole(path) as beside:
        beside.write_text("whole")
        assert not path.exists() and beside.parent == path.parent
    assert path.read_text() == "whole" and synced == [str(beside)]
    assert list(path.parent.iterdir()) == [path]


def test_an_error_half_way_leaves_what_was_there(tmp_path):
    path = tmp_path / "score.json"
    write_whole(path, "old")
    with pytest.raises(RuntimeError), appears_whole(path) as beside:
        beside.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_what_killed_runs_left_is_removed_and_nothing_else(tmp_path):
    kept = [tmp_path / name for name in ("states-1.ckpt", ".score.json.7.part", "states-1.ckpt.part")]
    for path in [*kept, tmp_path / ".states-2.ckpt.7.part", tmp_path / ".dev-best.ckpt.8.part"]:
        path.write_text("")
    remove_halves(tmp_path, "*.ckpt")
    assert sorted(tmp_path.iterdir()) == sorted(kept)

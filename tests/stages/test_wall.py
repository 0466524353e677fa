# SPDX-License-Identifier: Apache-2.0
"""The wall time of a run: stages side by side count once, every start counts, and what happened in between does not."""

import io
import json
import os
import sys
import time

import pytest

from headrace_stages import stamps
from headrace_stages.display import Display
from headrace_stages.scheduler import Scheduler, StageFailedError
from headrace_stages.stage import RunFolder, Stage
from headrace_stages.stamps import Stamp, wall_seconds


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path)


def leave(folder, name, *spans, **more):
    stamps.write(folder, name, Stamp("key", "done", [], spans=[list(span) for span in spans], **more))


@pytest.mark.parametrize(
    ("spans", "seconds"),
    [
        ({"a": [(0, 10)], "b": [(10, 30)]}, 30),
        ({"a": [(0, 10)], "b": [(5, 12)], "c": [(6, 7)]}, 12),
        ({"a": [(0, 10), (100, 110)], "b": [(105, 120)]}, 30),
        ({}, 0),
    ],
    ids=["one after the other", "side by side", "with a pause", "nothing"],
)
def test_the_clock_on_the_wall(folder, spans, seconds):
    for name, its in spans.items():
        leave(folder, name, *its)
    assert wall_seconds(folder, [*spans, "never run"]) == seconds


def run(folder, *stages):
    Scheduler(folder, stages, 2, 1, {}, "commit", Display(io.StringIO())).run()


def sleeping(name, code="pass", seconds=0.4):
    code = f"import time; time.sleep({seconds}); {code}; open('out', 'w').write('x')"
    return Stage(name, (sys.executable, "-c", code), ("out",))


def test_a_run_is_as_long_as_its_stages_side_by_side(folder):
    started = time.monotonic()
    run(folder, sleeping("a"), sleeping("b"))
    took = time.monotonic() - started
    assert 0.4 <= wall_seconds(folder, ["a", "b"]) <= took
    assert sum(stamps.read(folder, name).seconds for name in "ab") >= 0.8
    before = wall_seconds(folder, ["a", "b"])
    run(folder, sleeping("a"), sleeping("b"))
    assert wall_seconds(folder, ["a", "b"]) == before  # all whole: nothing was done


def test_a_failed_attempt_that_is_gone_on_from_counts(folder, tmp_path):
    flag = tmp_path / "mended"
    stage = sleeping("a", f"import pathlib; pathlib.Path({str(flag)!r}).stat()")
    with pytest.raises(StageFailedError):
        run(folder, stage)
    first = wall_seconds(folder, ["a"])
    assert first >= 0.4
    time.sleep(0.5)
    flag.touch()
    run(folder, stage)
    stamp = stamps.read(folder, "a")
    assert wall_seconds(folder, ["a"]) == pytest.approx(stamp.seconds) and stamp.seconds >= first + 0.4
    assert len(stamp.spans) == 2 and stamp.begun == 0


def test_an_attempt_that_was_thrown_away_does_not_count(folder):
    run(folder, sleeping("a", seconds=0.6))
    run(folder, sleeping("a", seconds=0.1))
    assert 0.1 <= wall_seconds(folder, ["a"]) < 0.6


def test_of_a_killed_run_the_time_until_its_last_sign_counts(folder):
    stage = sleeping("a", seconds=0.1)
    stamps.begin(folder, stage, stamps.key_of(folder, stage), "commit")
    begun = stamps.read(folder, "a").begun
    folder.log("a").parent.mkdir()
    folder.log("a").write_text("update 100 of 200")
    os.utime(folder.log("a"), (begun + 50, begun + 50))
    assert wall_seconds(folder, ["a"]) == pytest.approx(50, abs=0.01)
    run(folder, stage)
    stamp = stamps.read(folder, "a")
    assert stamp.attempts == 2 and stamp.seconds > 50
    assert stamp.spans[0] == pytest.approx([begun, begun + 50], abs=0.01)


def test_a_stamp_from_before_spans_ended_when_it_was_written(folder):
    values = {"key": "key", "state": "done", "command": [], "attempts": 1, "seconds": 60.0, "commit": ""}
    folder.stamp("a").parent.mkdir()
    folder.stamp("a").write_text(json.dumps(values))
    os.utime(folder.stamp("a"), (1e9, 1e9))
    leave(folder, "b", (1e9 - 30, 1e9 + 30))
    assert stamps.read(folder, "a").spans == [[1e9 - 60, 1e9]]
    assert wall_seconds(folder, ["a", "b"]) == 90

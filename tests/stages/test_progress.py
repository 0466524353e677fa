# SPDX-License-Identifier: Apache-2.0
"""How far a stage is, from the logs that fairseq, s3prl and tqdm write; and how long the rest takes."""

import pytest

from headrace.durations import clock
from headrace_stages import estimate
from headrace_stages.display import Now, line
from headrace_stages.progress import Follower, training_row
from headrace_stages.stage import Stage

FAIRSEQ = (
    '[2026-11-21 08:16:53,891][train_inner][INFO] - {"epoch": 1, "update": 0.151, "loss": "8.156", "loss_0": "6.715", '
    '"code_perplexity": "48.76", "accuracy": "0.02742", "num_updates": "25", "lr": "0.000125", "wall": "124"}\n'
    "[2026-11-21 08:16:53,912][headrace_fairseq.progress][INFO] - update 25 of 100 (25%), 4.55 s/update, 5 min left\n"
)


def follow(tmp_path, kind, *pieces):
    """(share, detail) after each piece that is added to a log."""
    log = tmp_path / "log"
    log.touch()
    follower = Follower(log, 0, kind)
    seen = []
    for piece in pieces:
        with log.open("a") as file:
            file.write(piece)
        reader = follower.look()
        seen.append((reader.share, reader.detail))
    return seen


def test_a_bar_that_is_being_redrawn_is_read(tmp_path):
    seen = follow(tmp_path, "percent", "scan:   0%|  ", "\rscan:  55%|#  ", "\rscan: 100%|##\ndone\n")
    assert [share for share, _ in seen] == [0.0, 0.55, 1.0]


def test_fairseq_says_update_loss_and_perplexity(tmp_path):
    assert follow(tmp_path, "fairseq", FAIRSEQ) == [(0.25, "update 25 of 100, loss 8.16, code perplexity 49")]


def test_a_line_that_is_half_written_is_read_when_it_is_whole(tmp_path):
    seen = follow(tmp_path, "fairseq", FAIRSEQ[:-60], FAIRSEQ[-60:])
    assert [share for share, _ in seen] == [None, 0.25]


def test_downstream_counts_training_then_evaluation(tmp_path):
    log = ("overall:  50%|#", "\rtrain:  99%|#", "\rtrained in 5 s: exp\n", "test-clean:  50%|#")
    assert [share for share, _ in follow(tmp_path, "downstream", *log)] == pytest.approx([0.45, 0.45, 0.9, 0.95])


def test_downstream_counts_folds(tmp_path):
    log = ("\n== fold3 (3 of 5) ==\n", "overall:  50%|#", "\nalready trained: exp\n")
    assert follow(tmp_path, "downstream", *log) == [
        (0.4, "fold 3 of 5"),
        (pytest.approx(0.49), "fold 3 of 5"),
        (pytest.approx(0.58), "fold 3 of 5"),
    ]


@pytest.mark.parametrize(
    "text",
    ["", "Traceback", '{"num_updates": "5"', '[valid][INFO] - {"num_updates": "5", "loss": "1"}', "[train_inner] - {}"],
)
def test_other_lines_are_no_training_rows(text):
    assert training_row(text) is None


def chain(*lengths, after=()):
    stages = []
    for number, seconds in enumerate(lengths):
        before = (stages[-1].name,) if stages else after
        stages.append(Stage(f"{'-'.join(map(str, lengths))}:{number}", (), (), (), before, expected_seconds=seconds))
    return stages


@pytest.mark.parametrize(
    ("stages", "jobs", "seconds"),
    [
        (chain(10, 20), 2, 30),
        (chain(10) + chain(20), 2, 20),
        (chain(10) + chain(20), 1, 30),
        (chain(10) + chain(11) + chain(12) + chain(30, 5), 2, 35),
    ],
    ids=["a chain", "side by side", "one job", "the long chain starts first"],
)
def test_the_time_left_is_that_of_the_layout_on_the_jobs(stages, jobs, seconds):
    left = {stage.name: stage.expected_seconds for stage in stages}
    assert estimate.makespan(stages, left, [], jobs) == seconds


@pytest.mark.parametrize(
    ("elapsed", "share", "seconds"),
    [(0, None, 100), (60, None, 40), (500, None, 20), (50, 1.0, 0), (100, 0.5, 75)],
    ids=["not begun", "no progress known", "far too late", "finished", "slower than expected"],
)
def test_a_running_stage_is_timed_by_its_own_progress(elapsed, share, seconds):
    assert estimate.seconds_left(100, elapsed, share) == pytest.approx(seconds)


def test_the_line_says_what_runs_and_how_long_it_takes():
    now = Now(3, 9, [("asr-llsa", 0.42, "step"), ("export", None, "")], 65, 3700)
    assert line(now) == "[1:05, about 1:01:40 left]  3 of 9 stages  |  asr-llsa 42% (step)  |  export"


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (3600, "1:00:00")])
def test_clock(seconds, text):
    assert clock(seconds) == text


@pytest.mark.parametrize(
    ("expected", "taken", "least", "most"),
    [
        pytest.param(12, 4, 0.85, 1.0, id="seconds of manifests, fast: as expected"),
        pytest.param(12, 30, 1.0, 1.3, id="seconds of manifests, slow: nearly as expected"),
        pytest.param(2000, 4000, 1.9, 2.0, id="an hour on a machine half as fast"),
        pytest.param(0, 0, 1.0, 1.0, id="nothing done"),
    ],
)
def test_pace_follows_long_stages_and_hardly_short_ones(expected, taken, least, most):
    assert least <= estimate.pace(expected, taken) <= most

# SPDX-License-Identifier: Apache-2.0
"""The line that says how long training will take."""

import logging

import pytest

pytest.importorskip("fairseq", reason="fairseq is not installed")
from headrace_fairseq.progress import Progress


def logged(caplog, updates, seconds_per_update, max_update=1000):
    now = [0.0]
    progress = Progress(max_update, log_interval=50, clock=lambda: now[0])
    with caplog.at_level(logging.INFO):
        for update in updates:
            progress.update(update)
            now[0] += seconds_per_update
    return [record.getMessage() for record in caplog.records]


def test_time_left_is_that_of_the_updates_left(caplog):
    assert logged(caplog, range(101), 0.5) == [
        "update 50 of 1000 (5%), 0.50 s/update, 7 min 55 s left",
        "update 100 of 1000 (10%), 0.50 s/update, 7 min 30 s left",
    ]


def test_hours(caplog):
    assert logged(caplog, range(51), 36.0)[-1].endswith("9 h 30 min left")


def test_a_resumed_run_is_timed_from_where_it_went_on(caplog):
    assert logged(caplog, range(900, 951), 1.0) == ["update 950 of 1000 (95%), 1.00 s/update, 0 min 50 s left"]


def test_a_run_from_another_runs_weights_starts_at_zero(caplog):
    assert logged(caplog, [400, *range(51)], 1.0) == ["update 50 of 1000 (5%), 1.00 s/update, 15 min 50 s left"]


def test_an_update_that_is_told_twice_takes_no_time(caplog):
    assert logged(caplog, [400, 400, *range(401, 451)], 1.0)[-1].startswith("update 450 of 1000 (45%), 1.02 s/update")

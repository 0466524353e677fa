# SPDX-License-Identifier: Apache-2.0
"""What a run that certifies its encoders reports besides: waits, live speed, and error rates against waits."""

import re

import pytest

from headrace_experiments import report_file, results_file
from headrace_experiments.page import page
from headrace_experiments.table import for_markdown, table


@pytest.fixture(scope="module")
def report():
    """A stored report of a run without certificates."""
    return report_file.read(results_file.STORE / "demo.json")


def certified(report, claimed_ms=180.0, factor=0.2):
    """The report with a certificate in each encoder."""
    mean_ms = claimed_ms and claimed_ms - 40
    found = {"claimed_ms": claimed_ms, "observed_ms": claimed_ms, "mean_ms": mean_ms, "holds": True}
    rows = [
        row | {"encoder": row["encoder"] and row["encoder"] | {"certificate": found | {"real_time_factor": factor}}}
        for row in report["rows"]
    ]
    return report | {"rows": rows}


@pytest.mark.parametrize(
    ("claimed_ms", "factor", "cells"),
    [(180.0, 0.2, ["180 / 140", "0.200"]), (None, None, ["whole utterance", ""])],
    ids=["live", "whole"],
)
def test_parameters_waits_and_speed_stand_in_the_table_of_a_certified_run(report, claimed_ms, factor, cells):
    t = table(certified(report, claimed_ms, factor))
    first = t.headings.index("parameters, M")
    assert t.headings[first + 1 : first + 3] == ["waits ms, most / mean", "real-time factor"]
    assert t.rows[t.main][first + 1 : first + 3] == cells and re.fullmatch(r"\d+\.\d\d", t.rows[t.main][first])
    assert {len(row) for row in t.rows} == {len(t.headings)}
    assert "parameters, M" not in table(report).headings


@pytest.mark.parametrize("claimed_ms", [180.0, None], ids=["live", "whole"])
def test_error_rates_are_drawn_against_waits_and_kept_with_the_numbers(report, claimed_ms, tmp_path):
    one = certified(report, claimed_ms)
    assert page(one).count("<svg") == page(report).count("<svg") + 1
    path = results_file.store(one, tmp_path)
    assert path.with_suffix(".svg").read_text().startswith("<svg")
    assert "![Word error rate against what frames wait for](experiments/results/demo.svg)" in for_markdown(one)
    assert "![" not in for_markdown(report)

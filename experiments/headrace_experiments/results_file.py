# SPDX-License-Identifier: Apache-2.0
"""Tables in RESULTS.md: written from stored reports between two marks, never typed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from headrace_downstream.files import write_whole
from headrace_experiments import pictures, report_file
from headrace_experiments.report_file import STORE
from headrace_experiments.table import for_markdown, is_certified


def marks(name: str) -> tuple[str, str]:
    """The lines that a table stands between."""
    return f"<!-- begin {name}: made from experiments/results/{name}.json, do not edit -->", f"<!-- end {name} -->"


def store(report: dict[str, Any], folder: Path = STORE) -> Path:
    """Keep a report with the checkout; it appears whole.

    Raises:
        ValueError: the run was on other corpora than its experiment's own, whose numbers are kept here.
    """
    if report["corpora"].get("are_others"):
        heard = f"{report['corpora']['asr']['name']} and {report['corpora']['emotion']['name']}"
        raise ValueError(
            f"--markdown: this run of {report['experiment']} heard {heard} in place of the experiment's own corpora; "
            "give them an experiment file of their own (experiments/README.md)"
        )
    path = folder / f"{report['experiment']}.json"
    report_file.write(path, report)
    if is_certified(report):
        write_whole(path.with_suffix(".svg"), pictures.error_against_wait(report) + "\n")
    return path


def with_table(text: str, report: dict[str, Any], where: str = "RESULTS.md") -> str:
    """The text with the report's table between its marks; appended, marks and all, where they are not there yet.

    Raises:
        ValueError: only one of the marks is there, or they are there in the wrong order or twice.
    """
    begin, end = marks(report["experiment"])
    table = f"{begin}\n\n{for_markdown(report)}\n\n{end}"
    if begin not in text and end not in text:
        return f"{text.rstrip()}\n\n{table}\n".lstrip()
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise ValueError(f"{where}: expected one line {begin!r} and, after it, one line {end!r}; mend or remove them")
    before, rest = text.split(begin)
    return before + table + rest.split(end)[1]


def write_table(path: Path, report: dict[str, Any]) -> None:
    """Put the report's table into a file; it appears whole."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    write_whole(path, with_table(text, report, str(path)))

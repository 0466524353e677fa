# SPDX-License-Identifier: Apache-2.0
"""report.json: all numbers of a run, in a form that says the same on every machine."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from headrace_downstream.files import write_whole
from headrace_experiments.plan import CHECKOUT

FORMAT = 1
NAME = "report.json"
STORE = Path(__file__).resolve().parents[1] / "results"
"""Stored reports, one per experiment, kept with the checkout."""


def write(path: Path, report: dict[str, Any]) -> None:
    """Write a report; it appears whole."""
    write_whole(path, json.dumps(report, indent=1) + "\n")


def read(path: Path) -> dict[str, Any]:
    """Read a report.

    Raises:
        ValueError: it is missing, or of a format that this version does not know.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file; run the experiment first")
    report = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(report, dict) or report.get("format") != FORMAT:
        raise ValueError(f"{path}: no report of format {FORMAT}, which this version reads; make the report anew")
    return report


def portable(text: str, run: Path) -> str:
    """A text in which paths are told from the checkout; a run's folder outside of it is called RUN."""
    name = str(run.relative_to(CHECKOUT)) if run.is_relative_to(CHECKOUT) else "RUN"
    text = text.replace(sys.executable, "python").replace(str(run), name)
    text = text.replace(f"{CHECKOUT}/", "").replace(str(CHECKOUT), ".")
    return text.replace(f"{CHECKOUT.parent}/", "../")

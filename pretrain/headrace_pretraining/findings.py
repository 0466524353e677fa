# SPDX-License-Identifier: Apache-2.0
"""What was found wrong with a pretraining while it ran: ``health.json`` beside its checkpoints."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from headrace.checkpoint.files import written_whole

if TYPE_CHECKING:  # training imports this file where nobody knows of stages
    from headrace_stages.stage import RunFolder

FILE = "health.json"


@dataclass(frozen=True)
class Finding:
    """One warning. name: of the rule; update: when it was found; text: what, and what usually causes it."""

    name: str
    update: int
    text: str


def read_findings(checkpoints: Path) -> list[Finding]:
    """Of the run whose checkpoints are in a folder; none where there is no file, or none that can be read."""
    try:
        return [Finding(**one) for one in json.loads((checkpoints / FILE).read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError):
        return []


def findings_of_iterations(folder: RunFolder, count: int) -> list[tuple[int, Finding]]:
    """Of each training, train-1 .. train-COUNT, of a HuBERT's run; beside the number of its iteration."""
    homes = {number: folder.stage(f"train-{number}") for number in range(1, count + 1)}
    return [(number, each) for number, home in homes.items() for each in read_findings(home / "checkpoints")]


def write_findings(checkpoints: Path, findings: Sequence[Finding]) -> None:
    """Keep them; the file appears whole.

    Raises:
        OSError: the disk is full or not writable.
    """
    with written_whole(checkpoints / FILE) as partial:
        partial.write_text(json.dumps([asdict(one) for one in findings], indent=1) + "\n", encoding="utf-8")

# SPDX-License-Identifier: Apache-2.0
"""What was found wrong with a pretraining while it ran: ``health.json`` beside its checkpoints."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from headrace.checkpoint.files import written_whole

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


def write_findings(checkpoints: Path, findings: Sequence[Finding]) -> None:
    """Keep them; the file appears whole.

    Raises:
        OSError: the disk is full or not writable.
    """
    with written_whole(checkpoints / FILE) as partial:
        partial.write_text(json.dumps([asdict(one) for one in findings], indent=1) + "\n", encoding="utf-8")

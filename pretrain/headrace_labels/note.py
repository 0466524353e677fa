# SPDX-License-Identifier: Apache-2.0
"""<label file>.json: what labels were made of. Written with them, asked for before anything trains on them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from headrace.checkpoint.files import written_whole


@dataclass(frozen=True)
class Note:
    """What labels were made of. manifest_rows, kmeans: SHA-256; label_rate: labels a second."""

    manifest_rows: str
    kmeans: str
    label_rate: float
    features: str
    num_clusters: int


def note_of(label: Path) -> Path:
    """Where a label file's note is."""
    return label.with_name(f"{label.name}.json")


def write_note(label: Path, note: Note) -> None:
    """Write the note of a label file; it appears whole."""
    with written_whole(note_of(label)) as partial:
        partial.write_text(json.dumps(asdict(note), indent=1) + "\n", encoding="utf-8")


def read_note(label: Path) -> Note | None:
    """The note of a label file; None where there is none."""
    path = note_of(label)
    return Note(**json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None

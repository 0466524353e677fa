# SPDX-License-Identifier: Apache-2.0
"""What a corpus folder holds: splits in LibriSpeech layout, sessions in IEMOCAP layout; what manifests say of it."""

from __future__ import annotations

import csv
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SAMPLE_RATE = 16000

SPLIT_NAMES = {
    "train": ("train", "train-clean-100"),
    "dev": ("dev", "dev-clean"),
    "test": ("test", "test-clean"),
}
"""Names by role, the first that is there is taken: an4 and the demo corpus, then LibriSpeech."""


@dataclass(frozen=True)
class Splits:
    """Folders of an ASR corpus that play the three roles."""

    train: str
    dev: str
    test: str


def find_splits(root: Path) -> Splits:
    """Find which folders of a corpus in LibriSpeech layout play the three roles.

    Raises:
        ValueError: the folder is not there, or lacks one of them.
    """
    if not root.is_dir():
        raise ValueError(f"--asr-root: {root} is no folder; expected a corpus in LibriSpeech layout")
    found = {}
    for role, names in SPLIT_NAMES.items():
        there = [name for name in names if (root / name).is_dir()]
        if not there:
            holds = ", ".join(sorted(path.name for path in root.iterdir() if path.is_dir())) or "no folders"
            raise ValueError(f"--asr-root: {root} holds no {role} split ({' or '.join(names)}); it holds {holds}")
        found[role] = there[0]
    return Splits(**found)


def check_sessions(root: Path) -> None:
    """Raise ValueError unless the folder is a corpus in IEMOCAP layout: Session1 .. Session5."""
    missing = [f"Session{number}" for number in range(1, 6) if not (root / f"Session{number}" / "sentences").is_dir()]
    if missing:
        raise ValueError(
            f"--ser-root: {root} lacks {', '.join(f'{name}/sentences' for name in missing)}; "
            "expected a corpus in IEMOCAP layout, five sessions"
        )


def describe_asr(manifests: Path, splits: Splits) -> dict[str, Any]:
    """Utterances, minutes and speakers per role, from what prepare_librispeech.py wrote."""
    found = {}
    for role in SPLIT_NAMES:
        name = getattr(splits, role)
        with (manifests / "len_for_bucket" / f"{name}.csv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        speakers = {Path(row["file_path"]).name.split("-")[0] for row in rows}
        minutes = sum(int(row["length"]) for row in rows) / SAMPLE_RATE / 60
        found[role] = {"split": name, "utterances": len(rows), "minutes": minutes, "speakers": len(speakers)}
    return found


def describe_emotion(manifests: Path) -> dict[str, Any]:
    """Utterances per class over all five sessions, from what prepare_iemocap.py wrote."""
    labels: Counter[str] = Counter()
    for path in sorted((manifests / "meta_data").glob("Session*/test_meta_data.json")):
        labels.update(item["label"] for item in json.loads(path.read_text(encoding="utf-8"))["meta_data"])
    return {"utterances": sum(labels.values()), "classes": dict(sorted(labels.items()))}


def describe_manifest(path: Path) -> dict[str, Any]:
    """Utterances and minutes of a fairseq manifest."""
    rows = path.read_text(encoding="utf-8").splitlines()[1:]
    minutes = sum(int(row.split("\t")[1]) for row in rows) / SAMPLE_RATE / 60
    return {"utterances": len(rows), "minutes": minutes}

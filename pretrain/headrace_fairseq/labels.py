# SPDX-License-Identifier: Apache-2.0
"""Do the labels belong to the audio? Asked before update 0: HuBERT learns from wrong ones without a word.

Labels are as fairseq reads them: ``<split>.<label>``, a line of cluster numbers for each line of the manifest, and
``dict.<label>.txt``, a line "number count" for each cluster. What headrace wrote has ``<split>.<label>.json`` beside
it (``headrace_labels/note.py``), which says of which manifest, of which k-means, and at which rate.
"""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from headrace_labels.note import read_note
from headrace_labels.shards import Manifest, read_manifest

TOLERANCE_SECONDS = 0.1  # fairseq's: it warns beyond, and trains on
FEWEST_CLUSTERS = 2
COUNTED = 5000
MAKE = "Make the labels with: python pretrain/hubert.py CONFIG, or pretrain/labels/dump_km_label.py"


def check_dictionaries(task: Any) -> None:
    """Check ``dict.<label>.txt`` of each kind of label in a task's configuration.

    Raises:
        ValueError: no such file, no or hardly any clusters in it, a line of another form, or no rate; names it.
    """
    if task.label_rate <= 0:
        raise ValueError(f"task.label_rate must be the labels of a second, 100 for MFCC, got {task.label_rate:g}.")
    for label in task.labels:
        read_dictionary(_folder(task) / f"dict.{label}.txt")


def read_dictionary(path: Path) -> set[str]:
    """The clusters' names.

    Raises:
        ValueError: as in ``check_dictionaries``.
    """
    if not path.is_file():
        raise ValueError(f"{path} is not there: fairseq reads the clusters' names from it. {MAKE}.")
    names = set()
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        name, _, count = line.rpartition(" ")
        if not name or not count.lstrip("-").isdecimal():
            raise ValueError(f"{path}, line {number}: expected 'cluster count', got {line!r}. {MAKE}.")
        names.add(name)
    if len(names) < FEWEST_CLUSTERS:
        raise ValueError(
            f"{path} names {len(names)} clusters: every label would be unknown and the same, and the loss would fall "
            f"to 0 with nothing learned. Write a line 'number 1' for each cluster, 0 to K - 1. {MAKE}."
        )
    return names


def check(task: Any, split: str) -> None:
    """Check the labels of a split against its manifest, line by line.

    Raises:
        ValueError: not there, of another manifest or k-means, at another rate, of the wrong length, or unknown to the
            dictionary; names file and line, says what to do.
    """
    folder, manifest = _folder(task), read_manifest(Path(task.data), split)
    for label in task.labels:
        path = folder / f"{split}.{label}"
        if not path.is_file():
            raise ValueError(f"{path} is not there: a line of labels for each line of {split}.tsv. {MAKE}.")
        _check_origin(path, manifest, task.label_rate)
        _check_lines(path, manifest, read_dictionary(folder / f"dict.{label}.txt"), task)


def count(task: Any, split: str) -> list[int]:
    """Frames of each cluster of the first kind of label, in COUNTED lines spread over a split's labels."""
    folder, label = _folder(task), task.labels[0]
    counts = dict.fromkeys(sorted(read_dictionary(folder / f"dict.{label}.txt")), 0)
    path = folder / f"{split}.{label}"
    step = max(1, sum(1 for _ in _lines(path)) // COUNTED)
    for line in itertools.islice(_lines(path), 0, None, step):
        for name, times in Counter(line.split()).items():
            counts[name] += times
    return list(counts.values())


def digest(task: Any, split: str) -> str | None:
    """SHA-256 of a split's labels of all kinds; None where a file is missing."""
    paths = [_folder(task) / f"{split}.{label}" for label in task.labels]
    if not all(path.is_file() for path in paths):
        return None
    found = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while piece := file.read(1 << 20):
                found.update(piece)
        found.update(b"\0")
    return found.hexdigest()


def _check_origin(path: Path, manifest: Manifest, label_rate: float) -> None:
    """By what was noted when they were made; nothing is asked of labels that others made."""
    note = read_note(path)
    if note is None:
        return
    if note.manifest_rows != manifest.rows:
        raise ValueError(
            f"{path} was made for another manifest than {manifest.path}: rows were added, removed or sorted since. "
            f"{MAKE}."
        )
    if note.label_rate != label_rate:
        rate = f"{note.label_rate:g}"
        raise ValueError(f"{path} has {rate} labels a second: set task.label_rate={rate} (it is {label_rate:g}).")
    for other in sorted(path.parent.glob(f"*{path.suffix}.json")):
        beside = read_note(other.with_suffix(""))
        if beside is not None and beside.kmeans != note.kmeans:
            raise ValueError(
                f"{path} and {other.with_suffix('')} were made with different k-means models: the same number means "
                f"different sounds in them. Make both with one model. {MAKE}."
            )


def _check_lines(path: Path, manifest: Manifest, known: set[str], task: Any) -> None:
    rows = manifest.num_samples
    count = sum(1 for _ in _lines(path))
    if count != len(rows):
        raise ValueError(
            f"{path} has {count} lines and {manifest.path} lists {len(rows)} files: labels and audio would be out of "
            f"step. {MAKE}."
        )
    for number, (line, samples) in enumerate(zip(_lines(path), rows, strict=True), start=1):
        found = line.split()
        if unknown := set(found) - known:
            raise ValueError(
                f"{path}, line {number}: {sorted(unknown)[0]!r} is not in the dictionary of {len(known)} clusters "
                f"beside it. {MAKE}."
            )
        audio, labels = samples / task.sample_rate, len(found) / task.label_rate
        if abs(audio - labels) > TOLERANCE_SECONDS:
            raise ValueError(
                f"{path}, line {number}: {len(found)} labels at task.label_rate={task.label_rate:g} are {labels:.2f} s "
                f"and the audio is {audio:.2f} s{_other_rate(len(found) / audio if audio else 0.0, task.label_rate)}."
            )


def _other_rate(rate: float, set_rate: float) -> str:
    """What to do, where the labels seem to have another rate than is set."""
    likely = next((r for r in (25.0, 50.0, 100.0) if abs(rate / r - 1) < 0.05 and r != set_rate), None)
    return f": they look like {likely:g} a second, set task.label_rate={likely:g}" if likely else f". {MAKE}"


def _lines(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8") as file:
        yield from file


def _folder(task: Any) -> Path:
    return Path(task.data if task.label_dir is None else task.label_dir)

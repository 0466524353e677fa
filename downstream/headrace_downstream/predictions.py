# SPDX-License-Identifier: Apache-2.0
"""What a run said of each utterance: read from s3prl's files, kept as one table, scored from that table alone."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from headrace_downstream.files import write_whole


@dataclass(frozen=True)
class Prediction:
    """One utterance: words for ASR (either may be empty), a class for emotion."""

    utterance: str
    speaker: str
    reference: str
    hypothesis: str


def read_asr(expdir: Path, split: str, with_lm: bool, speakers: dict[str, str]) -> list[Prediction]:
    """What s3prl's ASR expert wrote when it evaluated a split: <split>-noLM-hyp.ark and -ref.ark, `utterance words
    ...` a line. An utterance's name holds no space: its line in the transcripts begins with it.
    """
    stem = expdir / f"{split}-{'LM' if with_lm else 'noLM'}"
    hypotheses, references = (_read_pairs(Path(f"{stem}-{what}.ark"), str.partition) for what in ("hyp", "ref"))
    return [Prediction(name, speakers[name], text, hypotheses[name]) for name, text in references.items()]


def read_emotion(expdir: Path, split: str, fold: str, speakers: dict[str, str]) -> list[Prediction]:
    """What s3prl's emotion expert wrote when it evaluated a split: <split>_<fold>_predict.txt and _truth.txt,
    `utterance class`. The class holds no space (corpora.check), the utterance's name may.
    """
    paths = (expdir / f"{split}_{fold}_{what}.txt" for what in ("predict", "truth"))
    hypotheses, references = (_read_pairs(path, str.rpartition) for path in paths)
    return [Prediction(name, speakers[name], label, hypotheses[name]) for name, label in references.items()]


def write(path: Path, predictions: list[Prediction]) -> None:
    """Write the table as tab-separated values, sorted by utterance; it appears whole."""
    text = io.StringIO()
    table = csv.writer(text, delimiter="\t", lineterminator="\n")
    table.writerow([field.name for field in fields(Prediction)])
    table.writerows(astuple(prediction) for prediction in sorted(predictions, key=lambda p: p.utterance))
    write_whole(path, text.getvalue())


def read(path: Path) -> list[Prediction]:
    """Read what `write` wrote.

    Raises:
        ValueError: the file is missing or is no such table.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file; evaluate the run first (downstream/run.py -m evaluate -e CHECKPOINT)")
    with path.open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file, delimiter="\t")
    if header != [field.name for field in fields(Prediction)] or any(len(row) != len(header) for row in rows):
        raise ValueError(f"{path}: not a table of utterance, speaker, reference, hypothesis; evaluate the run again")
    return [Prediction(*row) for row in rows]


def _read_pairs(path: Path, cut: Callable[[str, str], tuple[str, str, str]]) -> dict[str, str]:
    """{utterance: what stands beside it}; cut: str.partition cuts at the first space, str.rpartition at the last."""
    if not path.is_file():
        raise ValueError(f"{path}: s3prl left no such file; did the evaluation run to its end?")
    lines = path.read_text(encoding="utf-8").split("\n")
    return {name: text for name, _, text in (cut(line, " ") for line in lines if line)}

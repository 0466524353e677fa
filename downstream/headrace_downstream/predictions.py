# SPDX-License-Identifier: Apache-2.0
"""What a run said of each utterance: read from s3prl's files, kept as one table, scored from that table alone."""

from __future__ import annotations

import csv
import io
import re
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


def read_asr(expdir: Path, split: str, with_lm: bool) -> list[Prediction]:
    """What s3prl's ASR expert wrote when it evaluated a split: <split>-noLM-hyp.ark and -ref.ark, `utterance words
    ...` a line.
    """
    stem = expdir / f"{split}-{'LM' if with_lm else 'noLM'}"
    hypotheses, references = _read_lines(Path(f"{stem}-hyp.ark")), _read_lines(Path(f"{stem}-ref.ark"))
    return [Prediction(name, speaker_of(name), text, hypotheses[name]) for name, text in references.items()]


def read_emotion(expdir: Path, split: str, fold: str) -> list[Prediction]:
    """What s3prl's emotion expert wrote when it evaluated a split: <split>_<fold>_predict.txt and _truth.txt,
    `utterance class`.
    """
    hypotheses = _read_lines(expdir / f"{split}_{fold}_predict.txt")
    references = _read_lines(expdir / f"{split}_{fold}_truth.txt")
    return [Prediction(name, speaker_of(name), label, hypotheses[name]) for name, label in references.items()]


def speaker_of(utterance: str) -> str:
    """The speaker in an utterance's name.

    LibriSpeech: `1005-10051-0000` is of 1005. IEMOCAP: `Ses01F_impro01_M003` is of the man of session 1, for the
    last letter tells who speaks; the first tells who wore the markers (s3prl's metadata takes that one for the
    speaker).
    """
    if iemocap := re.fullmatch(r"(Ses\d+)[FM]_.*_([FM])\w*", utterance):
        return iemocap[1] + iemocap[2]
    return re.split("[-_]", utterance, maxsplit=1)[0]


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


def _read_lines(path: Path) -> dict[str, str]:
    if not path.is_file():
        raise ValueError(f"{path}: s3prl left no such file; did the evaluation run to its end?")
    pairs = (line.rstrip("\n").partition(" ") for line in path.read_text(encoding="utf-8").splitlines())
    return {name: text for name, _, text in pairs if name}

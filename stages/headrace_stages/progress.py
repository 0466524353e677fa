# SPDX-License-Identifier: Apache-2.0
"""How far a stage is, read from what its process writes: one reader per kind of log, in one visible table, READERS."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

BAR = re.compile(r"(\d{1,3})%\|")  # tqdm
UPDATE = re.compile(r"update (\d+) of (\d+) ")  # headrace_fairseq
FOLD = re.compile(r"^== fold\d \((\d+) of (\d+)\) ==")  # downstream/run.py
NESTED = re.compile(r"^\[([\d:]+), about ([\d:]+) left\] +\d+ of \d+ stages *\|?(.*)")
TRAINING_SHARE = 0.9  # of a downstream run's time, before its best checkpoint is evaluated


class Reader:
    """What a log has said so far. share: of the work that is done, None until it is known; detail: in words."""

    share: float | None = None
    detail: str = ""

    def feed(self, line: str) -> None:
        """Take the next line."""
        raise NotImplementedError


class Percent(Reader):
    """The last percentage of a tqdm bar."""

    def feed(self, line: str) -> None:
        if found := BAR.findall(line):
            self.share = min(int(found[-1]), 100) / 100


class Fairseq(Reader):
    """Updates of a pretraining, with its loss and how much of its codebook is in use."""

    def __init__(self) -> None:
        self._loss = ""

    def feed(self, line: str) -> None:
        if found := UPDATE.search(line):
            done, total = int(found[1]), int(found[2])
            self.share = done / max(total, 1)
            self.detail = f"update {done} of {total}{self._loss}"
        elif row := training_row(line):
            self._loss = f", loss {row['loss']:.2f}"
            if "code_perplexity" in row:
                self._loss += f", code perplexity {row['code_perplexity']:.0f}"


class Downstream(Reader):
    """s3prl's bars: training (the bar called overall), then evaluation of the best checkpoint; for each fold."""

    def __init__(self) -> None:
        self._fold, self._folds = 1, 1
        self._trained = False

    def feed(self, line: str) -> None:
        if found := FOLD.search(line):
            self._fold, self._folds = int(found[1]), int(found[2])
            self._trained = False
            self._set(0.0)
        elif line.startswith(("trained in", "already trained")):
            self._trained = True
            self._set(TRAINING_SHARE)
        elif found := BAR.findall(line):
            bar = min(int(found[-1]), 100) / 100
            if self._trained:
                self._set(TRAINING_SHARE + (1 - TRAINING_SHARE) * bar)
            elif line.lstrip().startswith("overall"):
                self._set(TRAINING_SHARE * bar)

    def _set(self, share: float) -> None:
        self.share = (self._fold - 1 + share) / self._folds
        self.detail = f"fold {self._fold} of {self._folds}" if self._folds > 1 else ""


class Stages(Reader):
    """Another run of stages inside this one: its own line of progress (display.py)."""

    def feed(self, line: str) -> None:
        if found := NESTED.match(line):
            elapsed, left = _seconds(found[1]), _seconds(found[2])
            self.share = elapsed / max(elapsed + left, 1.0)
            self.detail = found[3].strip()


def _seconds(clock: str) -> int:
    total = 0
    for part in clock.split(":"):
        total = 60 * total + int(part)
    return total


READERS: dict[str, Callable[[], Reader]] = {
    "percent": Percent,
    "fairseq": Fairseq,
    "downstream": Downstream,
    "stages": Stages,
}


def training_row(line: str) -> dict[str, float] | None:
    """Numbers of a line that fairseq logs during training with log_format json; None for any other line."""
    start = line.find("{")
    if start < 0 or '"num_updates"' not in line or "[train_inner]" not in line:
        return None
    try:
        values = json.loads(line[start:])
    except ValueError:
        return None
    row = {name: number for name, value in values.items() if (number := _number(value)) is not None}
    return row if "num_updates" in row and "loss" in row else None


def _number(value: object) -> float | None:
    try:
        return float(value) if isinstance(value, str | int | float) else None
    except ValueError:
        return None


class Follower:
    """Feeds a reader with the lines that were added to a log since the last look."""

    def __init__(self, log: Path, start: int, kind: str) -> None:
        self.reader = READERS[kind]()
        self._log, self._offset, self._rest = log, start, ""

    def look(self) -> Reader:
        """Read on; returns the reader."""
        for line in self._new_lines():
            self.reader.feed(line)
        return self.reader

    def _new_lines(self) -> Iterator[str]:
        try:
            with self._log.open("rb") as file:
                file.seek(self._offset)
                data = file.read()
        except OSError:
            return
        self._offset += len(data)
        text = self._rest + data.decode("utf-8", errors="replace")
        *lines, self._rest = re.split(r"[\r\n]", text)
        yield from lines
        if self._rest and BAR.search(self._rest):  # tqdm ends a line only when it writes the next
            yield self._rest

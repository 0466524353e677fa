# SPDX-License-Identifier: Apache-2.0
"""A stage: one command of the checkout, what it reads, what it must leave behind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path


@dataclass(frozen=True)
class Stage:
    """One command, run as a process of its own in a folder of its own, RUN/stages/NAME.

    Whatever a stage writes, it writes below its folder: a stage that has to start afresh has its folder removed, or put
    aside where it is costly.
    """

    name: str
    command: tuple[str, ...]
    outputs: tuple[str, ...]  # files and folders below the stage's folder that are there, not empty, when it is done
    inputs: tuple[Path, ...] = ()  # files and folders outside the run that decide the result: configurations, corpora
    after: tuple[str, ...] = ()  # stages whose outputs it reads
    progress: str = "percent"  # a row of progress.READERS: how far it is, read from its log
    expected_seconds: float = 10.0  # on the machine that the experiment was sized on; for the time left only
    scratch: tuple[str, ...] = ()  # below its folder, removed when it is done
    always: bool = False  # cheap, and to be made anew each time: the report
    told_by: tuple[str, ...] = ()  # another command with the same result, by which it is known; empty: its own
    costly: bool = False  # took hours or days: where it has to start afresh, what it had made is put aside, not removed


@dataclass(frozen=True)
class RunFolder:
    """Where things are in a run's folder, as one of its machines sees it.

    machine: 0 runs the stages; a higher number takes part in those that many machines run together (machines.py).
    """

    root: Path
    machine: int = 0

    @property
    def mark(self) -> str:
        """What tells the processes of this run on this machine from all others."""
        return f"{self.root} on machine {self.machine}" if self.machine else str(self.root)

    @property
    def lock(self) -> Path:
        """The file that this machine's process holds while it is at work."""
        return self.root / (f".lock.machine-{self.machine}" if self.machine else ".lock")

    def stage(self, name: str) -> Path:
        """The folder that a stage writes into."""
        return self.root / "stages" / name

    def aside(self, name: str) -> Path:
        """The next free folder for what a costly stage had made."""
        number = next(n for n in count(1) if not self.stage(f"{name}.before-{n}").exists())
        return self.stage(f"{name}.before-{number}")

    def stamp(self, name: str) -> Path:
        """What is known of a stage's last run: see stamps.py."""
        return self.root / "stamps" / f"{name}.json"

    def log(self, name: str) -> Path:
        """Everything that a stage's process wrote on this machine."""
        return self.root / "logs" / (f"{name}.machine-{self.machine}.log" if self.machine else f"{name}.log")


def check(stages: Sequence[Stage]) -> None:
    """Raise ValueError for two stages of one name, and for a stage that needs one that is not listed before it."""
    known: set[str] = set()
    for stage in stages:
        if stage.name in known:
            raise ValueError(f"two stages are called {stage.name!r}; give each row and each pretraining another name")
        if missing := [name for name in stage.after if name not in known]:
            raise ValueError(f"stage {stage.name} comes after {', '.join(missing)}, which is not listed before it")
        known.add(stage.name)

# SPDX-License-Identifier: Apache-2.0
"""Runs stages side by side, first those that most hangs on; skips what is whole, goes on with what is half-made."""

from __future__ import annotations

import contextlib
import fcntl
import re
import shutil
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from types import FrameType

from headrace.durations import clock
from headrace_stages import estimate, process, stamps
from headrace_stages import stage as stages_
from headrace_stages.display import Display, Now
from headrace_stages.process import Running
from headrace_stages.progress import Follower
from headrace_stages.stage import RunFolder, Stage

POLL_SECONDS = 0.1
LAST_LINES = 25
OWN_LINE = re.compile(r"(headrace_fairseq|\w+\.py): ")  # how our commands begin the line that says what is wrong


class StageFailedError(Exception):
    """A stage's process failed; the message holds its own words or its log's last lines, its command, what to do."""


class InUseError(ValueError):
    """Another run is at work in the folder."""


class StoppedError(Exception):
    """Asked to stop by Ctrl-C or by a signal."""


@dataclass
class Scheduler:
    """One pass over the stages of a run.

    Args:
        folder: the run's folder.
        stages: in an order where each comes after those that it needs.
        jobs: stages side by side.
        threads: threads of each.
        environment: variables that every stage gets.
        commit: what the stamps say the stages were made with.
    """

    folder: RunFolder
    stages: Sequence[Stage]
    jobs: int
    threads: int
    environment: Mapping[str, str]
    commit: str
    display: Display = field(default_factory=Display)

    def __post_init__(self) -> None:
        stages_.check(self.stages)
        self._order = estimate.critical_seconds(self.stages)
        self._done: set[str] = set()
        self._running: list[tuple[Running, Follower]] = []
        self._expected = self._taken = 0.0
        self._started = time.monotonic()

    def run(self) -> None:
        """Run until every stage is done.

        Raises:
            StageFailedError: a stage failed; the others were stopped and will go on from where they were.
            StoppedError: asked to stop; the same holds.
            InUseError: another run is at work in the folder.
            ValueError: an input is missing.
        """
        with locked(self.folder), stopping_on_signals():
            if found := process.end_leftovers(self.folder.mark):
                self.display.event(f"ended {found} processes that a killed run had left behind")
            try:
                while len(self._done) < len(self.stages):
                    self._start_ready()
                    self._collect()
                    self.display.progress(self._now())
                    time.sleep(POLL_SECONDS if self._running else 0.0)
            finally:
                self._stop()
                self.display.close()

    # ---- one turn ----

    def _start_ready(self) -> None:
        """Start what can be started; what is found whole counts as done at once, and may make others ready."""
        while len(self._running) < self.jobs and (ready := self._ready()):
            stage = max(ready, key=lambda one: self._order[one.name])
            key = stamps.key_of(self.folder, stage)
            if stamps.is_whole(self.folder, stage, key):
                self._done.add(stage.name)
                self.display.event(f"  whole    {stage.name}")
                continue
            goes_on = stamps.can_go_on(self.folder, stage, key) and not stage.always
            if not goes_on and (place := process.put_aside(self.folder, stage)):
                self.display.event(f"  kept     {place}: made from other settings or data; remove it when you like")
            stamp = stamps.begin(self.folder, stage, key, self.commit)
            one = process.start(self.folder, stage, not goes_on, self.threads, self.environment)
            self._running.append((one, Follower(one.log, one.log_start, stage.progress)))
            again = f" (attempt {stamp.attempts})" if goes_on else ""
            self.display.event(f"  {'goes on ' if goes_on else 'started '} {stage.name}{again}")

    def _ready(self) -> list[Stage]:
        begun = self._done | {one.stage.name for one, _ in self._running}
        return [stage for stage in self.stages if stage.name not in begun and self._done >= set(stage.after)]

    def _collect(self) -> None:
        """Take note of the stages whose process is over."""
        for pair in [pair for pair in self._running if process.has_ended(pair[0])]:
            one = pair[0]
            self._running.remove(pair)
            process.end([one])  # what children it has left
            self._settle(one)

    def _settle(self, one: Running) -> None:
        code, seconds = one.process.returncode, one.seconds
        stamps.spend(self.folder, one.stage.name, seconds, one.processor_seconds)
        if code != 0:
            raise StageFailedError(told_of_failure(self.folder, one))
        if missing := stamps.finish(self.folder, one.stage):
            raise StageFailedError(_told(self.folder, one, f"ended well, but did not leave {', '.join(missing)}"))
        for name in one.stage.scratch:
            shutil.rmtree(self.folder.stage(one.stage.name) / name, ignore_errors=True)
        self._done.add(one.stage.name)
        self._expected += one.stage.expected_seconds
        self._taken += seconds
        self.display.event(f"  done     {one.stage.name} in {clock(seconds)}")

    def _stop(self) -> None:
        """End what is running; it goes on from where it was, next time."""
        running = [one for one, _ in self._running]
        process.end(running)
        for one in running:
            stamps.spend(self.folder, one.stage.name, one.seconds, one.processor_seconds)
        self._running.clear()

    # ---- what is said ----

    def _now(self) -> Now:
        readers = [(one, follower.look()) for one, follower in self._running]
        begun = [(one, reader.share) for one, reader in readers if (reader.share or 0.0) >= estimate.MIN_SHARE]
        pace = estimate.pace(
            self._expected + sum(one.stage.expected_seconds * share for one, share in begun),
            self._taken + sum(one.seconds for one, _ in begun),
        )
        left = {stage.name: stage.expected_seconds * pace for stage in self.stages if stage.name not in self._done}
        for one, reader in readers:
            expected = one.stage.expected_seconds * pace
            left[one.stage.name] = estimate.seconds_left(expected, one.seconds, reader.share)
        shown = [(one.stage.name, reader.share, reader.detail) for one, reader in readers]
        names = [one.stage.name for one, _ in self._running]
        seconds = estimate.makespan(self.stages, left, names, self.jobs)
        return Now(len(self._done), len(self.stages), shown, time.monotonic() - self._started, seconds)


def told_of_failure(folder: RunFolder, one: Running) -> str:
    """How a stage's process ended, in its own words or its log's last lines, with its command and what to do."""
    code = one.process.returncode
    what = f"ended with exit code {code}" if code > 0 else f"was ended by signal {-code}"
    return _told(folder, one, what)


def _told(folder: RunFolder, one: Running, what: str) -> str:
    lines = log_lines(one.log, one.log_start)
    if own := own_lines(lines):  # alone: under torchrun a page of its own reports follows, which says less
        said = [f"stage {one.stage.name} {what}: {own[0]}", *own[1:], f"its log: {one.log}"]
    else:
        said = [f"stage {one.stage.name} {what}. The last lines of {one.log}:"]
        said += [f"    {line}" for line in lines[-LAST_LINES:]]
    return "\n".join(
        [
            *said,
            f"its command, in {folder.stage(one.stage.name)}:",
            f"    {process.as_typed(one.stage.command)}",
            "Mend the cause and give the same command again: it goes on from here. To do this stage afresh, remove "
            f"{folder.stage(one.stage.name)}",
        ]
    )


def log_lines(log: Path, start: int) -> list[str]:
    """The last lines that a process wrote after byte `start` of its log; of a bar that was redrawn, its last state."""
    with log.open("rb") as file:
        file.seek(max(start, log.stat().st_size - 60_000))
        text = file.read().decode("utf-8", errors="replace")
    lines = [line.rstrip("\r").rsplit("\r", 1)[-1].rstrip() for line in text.split("\n")]
    return [line for line in lines if line]


def own_lines(lines: Sequence[str]) -> list[str]:
    """The last line by which one of our commands said what is wrong, and those indented below it; none if none did."""
    found = [number for number, line in enumerate(lines) if OWN_LINE.match(line)]
    if not found:
        return []
    below = lines[found[-1] + 1 :]
    return [lines[found[-1]], *takewhile(lambda line: line.startswith("    "), below)]


@contextlib.contextmanager
def locked(folder: RunFolder) -> Iterator[None]:
    """Hold a run's folder, on a machine that joins its own part. Raises InUseError when another process does."""
    root = folder.root
    root.mkdir(parents=True, exist_ok=True)
    with folder.lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InUseError(f"another run is at work in {root}; wait for it, or choose another folder") from None
        yield


@contextlib.contextmanager
def stopping_on_signals() -> Iterator[None]:
    """Turn Ctrl-C and requests to end into StoppedError, raised where the program is."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise StoppedError(signal.Signals(number).name)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

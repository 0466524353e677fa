# SPDX-License-Identifier: Apache-2.0
"""Machine 0's side of a stage that all machines run: calls them, starts its own part, ends when all parts have ended.

A round is one attempt. A machine that is not heard of for a while is lost: the round is ended everywhere, and another
one begins when the machine is there again, whoever started it. Commands go on from what they had made.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count

from headrace_stages import fingerprint, process
from headrace_stages.machines import (
    ANSWER_SECONDS,
    POLL_SECONDS,
    WAIT_SECONDS,
    Machines,
    Meeting,
    MeetingLostError,
    free_port,
    open_meeting,
    turns,
)
from headrace_stages.process import Started

SECONDS_OF_GRACE = 1.0


@dataclass(frozen=True)
class Beat:
    """What was heard of a machine last: its process's token and perhaps a number, and when."""

    text: str
    heard: float


@dataclass(frozen=True)
class Failure:
    """What a machine said of a part that did not end well, and whether they are the part's own words."""

    words: str
    are_own: bool


@dataclass
class Leader:
    """Runs one stage on all machines.

    Args:
        machines: as machine 0 sees them.
        meeting: open.
        stage: its name.
        command: what every machine runs under torchrun.
        wait_seconds: for machines to come, each time.
        lost_seconds: of silence, after which a machine is lost.
    """

    machines: Machines
    meeting: Meeting
    stage: str
    command: Sequence[str]
    wait_seconds: float = WAIT_SECONDS
    lost_seconds: float = ANSWER_SECONDS
    _beats: dict[int, Beat] = field(default_factory=dict, init=False)

    def run(self) -> int:
        """The exit code: 0 when all parts ended well."""
        codes = (self._round(number) for number in count(1))
        return next(code for code in codes if code is not None)

    def _round(self, number: int) -> int | None:
        """Its exit code, or None when a machine was lost."""
        if mark := os.environ.get(process.MARK):
            process.end_leftovers(mark)  # workers of the round before may outlive their torchrun
        called = {"number": number, "stage": self.stage, "told": fingerprint.of_values(list(self.command))}
        self.meeting.put("round", json.dumps(called))
        if (why := self._missing(number)) is not None:
            print(f"machines.py: {why}", flush=True)
            return 1
        port = free_port()
        self.meeting.put(f"{number}/go", str(port))
        return self._together(number, port)

    def _missing(self, number: int) -> str | None:
        """Wait for all; what keeps one from coming, or that it does not come."""
        key = f"{number}/here"
        for _ in turns(self.wait_seconds, lambda: f"{_named(self._without(key))} at {self.machines.address}"):
            if not self._without(key):
                return None
            if failed := self._failed(number):
                return failed.words
        return f"{_named(self._without(key))} did not come to {self.machines.address} in {self.wait_seconds:.0f} s"

    def _together(self, number: int, port: int) -> int | None:
        """Start this machine's part and watch all; see ``_round``."""
        own = Started(process.spawn((*self.machines.torchrun(port), *self.command)))
        try:
            return self._watch(number, own)
        finally:
            process.end([own])

    def _watch(self, number: int, own: Started) -> int | None:
        now = time.monotonic()
        self._beats = {one: Beat(self.meeting.look(f"{number}/here/{one}") or "", now) for one in self.machines.joining}
        trouble: float | None = None  # since when
        while True:
            if lost := self._lost():
                print(f"{_named(lost)} was lost; going on when it is there again", flush=True)
                return None
            if process.has_ended(own):
                process.end([own])  # what children it has left
            code, failed = own.process.returncode, self._failed(number)
            if code == 0 and not failed and not self._without(f"{number}/ended"):
                return 0
            if failed or code not in (None, 0):
                trouble = trouble or time.monotonic()
                # a part fails, too, when another machine is lost, which is seen a little later
                if time.monotonic() - trouble > self.lost_seconds + SECONDS_OF_GRACE:
                    if failed and (failed.are_own or code in (None, 0)):  # else what machine 0's part said is the cause
                        print(f"machines.py: {failed.words}", flush=True)
                    return 1
            time.sleep(POLL_SECONDS)

    def _lost(self) -> list[int]:
        """The machines that were silent for too long, or whose process is another one than the round began with."""
        now, lost = time.monotonic(), []
        for machine, before in self._beats.items():
            beat = self.meeting.look(f"beat/{machine}")
            if beat is not None and beat != before.text:
                self._beats[machine] = Beat(beat, now)
            is_another = beat is not None and beat.split()[0] != before.text.split()[0]
            if is_another or now - self._beats[machine].heard > self.lost_seconds:
                lost.append(machine)
        return lost

    def _failed(self, number: int) -> Failure | None:
        """Of the machines whose part did not end well, one that has words of its own before one that has not."""
        found = []
        for machine in self.machines.joining:
            if (text := self.meeting.look(f"{number}/failed/{machine}")) is not None:
                told = json.loads(text)
                found.append(Failure(f"machine {machine}: {told['words']}", told["are_own"]))
        return max(found, key=lambda one: one.are_own, default=None)

    def _without(self, key: str) -> list[int]:
        """The machines that did not write below a key yet."""
        return [one for one in self.machines.joining if self.meeting.look(f"{key}/{one}") is None]


def farewell(machines: Machines, went: str) -> None:
    """Tell the others that the run is over, and how it went; whether they hear it or not, it is over."""
    try:
        meeting = open_meeting(machines)
        meeting.put("over", went)
        for _ in turns(ANSWER_SECONDS, lambda: machines.address):
            if all(meeting.look(f"bye/{machine}") is not None for machine in machines.joining):
                return
    except (ValueError, MeetingLostError) as error:
        print(f"warning: the other machines were not told that the run is over: {error}")


def _named(machines: Sequence[int]) -> str:
    return ("machine " if len(machines) == 1 else "machines ") + ", ".join(map(str, machines))

# SPDX-License-Identifier: Apache-2.0
"""The other machines' side: come to each meeting of machine 0, and run this machine's part of the stage that it calls.

What is run is this machine's own command of that stage, which must be the one of machine 0: nothing that comes over the
network is run.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from headrace_stages import fingerprint, process
from headrace_stages.machines import (
    POLL_SECONDS,
    SPLIT,
    WAIT_SECONDS,
    Machines,
    Meeting,
    MeetingLostError,
    reach_meeting,
)
from headrace_stages.process import Running
from headrace_stages.scheduler import StageFailedError, log_lines, own_lines, stopping_on_signals, told_of_failure
from headrace_stages.stage import RunFolder, Stage


@dataclass
class Joiner:
    """Takes part in the stages that all machines run, until machine 0 says that the run is over.

    Args:
        folder: the run's folder, as this machine sees it.
        stages: the same that machine 0 has.
        machines: as this one sees them.
        threads: of each process.
        say: where to tell what happens.
    """

    folder: RunFolder
    stages: Sequence[Stage]
    machines: Machines
    threads: int
    say: Callable[[str], None] = print
    wait_seconds: float = WAIT_SECONDS

    def run(self) -> None:
        """Until the run is over.

        Raises:
            StageFailedError: the run ended badly, here or elsewhere.
            StoppedError: asked to stop.
            ValueError: machine 0 does not come, or runs another command.
        """
        with stopping_on_signals():
            process.end_leftovers(self.folder)
            went: str | None = None
            while went is None:
                meeting = reach_meeting(self.machines, self.wait_seconds)
                try:
                    went = self._attend(meeting)
                except MeetingLostError:  # the stage is over, or machine 0 was ended: there will be another meeting
                    continue
        if went != "well":
            raise StageFailedError(f"the run ended {went} on machine 0; its words are there")

    def _attend(self, meeting: Meeting) -> str | None:
        """Take part in a meeting's rounds until it is lost; returns how the run went once it is over."""
        joined, running = 0, None
        try:
            while (went := meeting.look("over")) is None:
                called = json.loads(meeting.look("round") or '{"number": 0}')
                if called["number"] > joined:
                    self._end(running)
                    joined, running = called["number"], self._start(meeting, called)
                if running is not None and process.has_ended(running):
                    self._end(running)
                    self._report(meeting, joined, running)
                    running = None
                meeting.put(f"beat/{self.machines.this}", str(time.monotonic()))
                time.sleep(POLL_SECONDS)
            meeting.put(f"bye/{self.machines.this}", went)
            return went
        finally:
            self._end(running)

    def _start(self, meeting: Meeting, called: dict[str, Any]) -> Running:
        number, name, this = called["number"], called["stage"], self.machines.this
        stage = next((one for one in self.stages if one.name == name and SPLIT in one.command), None)
        command = () if stage is None else stage.command[stage.command.index(SPLIT) + 1 :]
        if stage is None or fingerprint.of_values(list(command)) != called["told"]:
            words = (
                f"stage {name} is another command here than on machine 0; give all machines the same command but for "
                "--machine, and let all see --data and --dest under the same paths"
            )
            meeting.put(f"{number}/failed/{this}", words)
            raise ValueError(words)
        part = replace(stage, command=(*self.machines.torchrun(called["port"]), *command))
        meeting.put(f"{number}/here/{this}", "")  # first: where the meeting is lost here, nothing was started
        self.say(f"  started  {name}" + (f" (round {number})" if number > 1 else ""))
        return process.start(self.folder, part, fresh=False, threads=self.threads, extra={})

    def _report(self, meeting: Meeting, number: int, running: Running) -> None:
        this, name = self.machines.this, running.stage.name
        if running.process.returncode == 0:
            meeting.put(f"{number}/ended/{this}", "")
            self.say(f"  done     {name}")
            return
        own = own_lines(log_lines(running.log, running.log_start))
        told = told_of_failure(self.folder, running)
        meeting.put(f"{number}/failed/{this}", own[0] if own else f"{told.splitlines()[0]} its log: {running.log}")
        self.say(told)

    @staticmethod
    def _end(running: Running | None) -> None:
        if running is not None:
            process.end([running])

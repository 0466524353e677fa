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
from uuid import uuid4

from headrace_stages import fingerprint, process, stamps
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
from headrace_stages.scheduler import (
    StageFailedError,
    locked,
    log_lines,
    own_lines,
    stopping_on_signals,
    told_of_failure,
)
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
            InUseError: another process is this machine.
            ValueError: machine 0 does not come, or runs another command.
        """
        with locked(self.folder), stopping_on_signals():
            went: str | None = None
            while went is None:
                went = self._come()
        if went != "well":
            raise StageFailedError(f"the run ended {went} on machine 0; its words are there")

    def _come(self) -> str | None:
        """Come to the next meeting; how the run went where it was the last."""
        try:
            meeting = reach_meeting(self.machines, self.wait_seconds)
        except ValueError:
            if self._is_done():  # and machine 0 had said so before this one was there
                return "well"
            raise
        try:
            return self._attend(meeting)
        except MeetingLostError:  # the stage is over, or machine 0 was ended: there will be another meeting
            return None

    def _attend(self, meeting: Meeting) -> str | None:
        """Take part in a meeting's rounds until it is lost; returns how the run went once it is over."""
        token, this = uuid4().hex, self.machines.this
        joined, ready, running = 0, None, None
        try:
            while (went := meeting.look("over")) is None:
                called = json.loads(meeting.look("round") or '{"number": 0}')
                if called["number"] > joined:
                    self._end(running)
                    joined, running = called["number"], None
                    ready = self._ready(meeting, called, token)
                if ready is not None and (port := meeting.look(f"{joined}/go")) is not None:
                    running, ready = self._start(ready, int(port), joined), None
                if running is not None and process.has_ended(running):
                    self._end(running)
                    self._report(meeting, joined, running)
                    running = None
                meeting.put(f"beat/{this}", f"{token} {time.monotonic()}")
                time.sleep(POLL_SECONDS)
            meeting.put(f"bye/{this}", went)
            return went
        finally:
            self._end(running)

    def _ready(self, meeting: Meeting, called: dict[str, Any], token: str) -> Stage | None:
        """The stage, once machine 0 knows that its part can be started here.

        None where a process before this one had said so: its part is dead, and machine 0 will call again.
        """
        number, name, this = called["number"], called["stage"], self.machines.this
        stage = next((one for one in self.stages if one.name == name and SPLIT in one.command), None)
        if stage is None or fingerprint.of_values(list(_shared(stage))) != called["told"]:
            words = (
                f"stage {name} is another command here than on machine 0; give all machines the same command but for "
                "--machine, and let all see --data and --dest under the same paths"
            )
            meeting.put(f"{number}/failed/{this}", json.dumps({"words": words, "are_own": True}))
            raise ValueError(words)
        if meeting.look(f"{number}/here/{this}") is not None:
            return None
        meeting.put(f"{number}/here/{this}", token)
        return stage

    def _start(self, stage: Stage, port: int, number: int) -> Running:
        process.end_leftovers(self.folder.mark)  # workers of the round before may outlive their torchrun
        self.say(f"  started  {stage.name}" + (f" (round {number})" if number > 1 else ""))
        part = replace(stage, command=(*self.machines.torchrun(port), *_shared(stage)))
        return process.start(self.folder, part, fresh=False, threads=self.threads, extra={})

    def _is_done(self) -> bool:
        last = stamps.read(self.folder, self.stages[-1].name) if self.stages else None
        return last is not None and last.state == "done"

    def _report(self, meeting: Meeting, number: int, running: Running) -> None:
        this, name = self.machines.this, running.stage.name
        if running.process.returncode == 0:
            meeting.put(f"{number}/ended/{this}", "")
            self.say(f"  done     {name}")
            return
        own = own_lines(log_lines(running.log, running.log_start))
        words = own[0] if own else f"ended with exit code {running.process.returncode}, its log: {running.log}"
        meeting.put(f"{number}/failed/{this}", json.dumps({"words": words, "are_own": bool(own)}))
        self.say(told_of_failure(self.folder, running))

    @staticmethod
    def _end(running: Running | None) -> None:
        if running is not None:
            process.end([running])


def _shared(stage: Stage) -> tuple[str, ...]:
    """What all machines run of a stage."""
    return stage.command[stage.command.index(SPLIT) + 1 :]

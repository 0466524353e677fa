# SPDX-License-Identifier: Apache-2.0
"""Machines that run stages together: which there are, what each runs, and the place where they meet.

Machine 0 leads. Its scheduler runs every stage; one that is for all machines is started as `lead.py ... -- COMMAND`
(leader.py), which opens the meeting and ends it with the stage. The others (joiner.py) come to each meeting and start
their part of the same stage. They share the run's folder and the corpus; the meeting is torch's key-value store:

    over            the run has ended, in the words that follow: "well" or "badly"
    round           JSON: the number of the round on now, the stage, the fingerprint of its command
    N/here/K        machine K is ready for its part of round N: the token of its process
    N/go            all are; torchrun's port
    N/ended/K       machine K's part ended well
    N/failed/K      it did not: JSON, its words, and whether they are the part's own
    beat/K          the token of machine K's process, and a number that grows while it is there
    bye/K           machine K has read that the run is over
"""

from __future__ import annotations

import contextlib
import re
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from torch.distributed import TCPStore

from headrace.durations import clock

WAIT_SECONDS = 1800.0
"""How long machines wait for each other. Between two meetings machine 0 may be at work alone, on an export say."""
ANSWER_SECONDS = 30.0
TOLD_SECONDS = 60.0  # between two lines of whom one waits for
POLL_SECONDS = 0.2
LEAD = Path(__file__).resolve().parents[1] / "lead.py"
SPLIT = "--"  # in a command of lead.py: what follows is run by all machines


@dataclass(frozen=True)
class Machines:
    """The machines of a run, as one of them sees it.

    Args:
        count: of machines.
        this: which of them this is, from 0.
        host, port: where they meet: of machine 0.
        processes: on each machine.
    """

    count: int
    this: int
    host: str
    port: int
    processes: int

    def __post_init__(self) -> None:
        if self.count < 2:
            raise ValueError(f"--machines: expected 2 or more with --meet, got {self.count}; one needs no --meet")
        if not 0 <= self.this < self.count:
            raise ValueError(f"--machine: expected 0 to {self.count - 1}, as --machines says, got {self.this}")

    @property
    def joining(self) -> range:
        """All machines but the one that leads."""
        return range(1, self.count)

    @property
    def address(self) -> str:
        """HOST:PORT."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def led(self, stage: str, command: tuple[str, ...]) -> tuple[str, ...]:
        """The command that machine 0's scheduler starts for a stage; on the others, what follows SPLIT is run."""
        own = (str(self.count), str(self.processes), self.address, stage)
        return (sys.executable, str(LEAD), *own, SPLIT, *command)

    def torchrun(self, port: int) -> tuple[str, ...]:
        """What comes before a command, for this machine's processes."""
        return (
            *(sys.executable, "-m", "torch.distributed.run", f"--nnodes={self.count}", f"--node-rank={self.this}"),
            *(f"--nproc-per-node={self.processes}", f"--master-addr={self.host}", f"--master-port={port}"),
        )


def address(text: str) -> tuple[str, int]:
    """HOST:PORT, taken apart. Raises ValueError for anything else."""
    found = re.fullmatch(r"(?:\[([0-9A-Fa-f:.%\w]+)\]|([\w.-]+)):(\d{1,5})", text)
    if found is None or not 0 < int(found[3]) < 65536:
        raise ValueError(f"--meet: expected HOST:PORT of machine 0, node17:29400 or [fe80::1]:29400, got {text!r}")
    return found[1] or found[2], int(found[3])


class MeetingLostError(Exception):
    """The other side of a meeting is gone."""


@contextlib.contextmanager
def _losing() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # torch's errors of its store are
        raise MeetingLostError(str(error)) from None


class Meeting:
    """Texts that all machines see. Every method raises MeetingLostError when the other side is gone."""

    def __init__(self, store: TCPStore) -> None:
        self._store = store

    def put(self, key: str, text: str) -> None:
        """Write a text."""
        with _losing():
            self._store.set(key, text)

    def look(self, key: str) -> str | None:
        """Read a text; None where nobody wrote one."""
        with _losing():
            return self._store.get(key).decode() if self._store.check([key]) else None


def turns(seconds: float, whom: Callable[[], str]) -> Iterator[None]:
    """Turns to look again, for so long; says once a minute for whom one waits."""
    begun = told = time.monotonic()
    while True:
        yield
        if (now := time.monotonic()) - begun > seconds:
            return
        if now - told > TOLD_SECONDS:
            print(f"waiting for {whom()}", flush=True)
            told = now
        time.sleep(POLL_SECONDS)


def open_meeting(machines: Machines) -> Meeting:
    """On machine 0.

    Raises:
        ValueError: the address is not this machine's, or another program listens there.
    """
    opened: Meeting | RuntimeError | None = None
    for _ in turns(ANSWER_SECONDS, lambda: machines.address):  # the meeting before may have left it a moment ago
        if isinstance(opened := _opened(machines), Meeting):
            return opened
    raise ValueError(
        f"--meet: nothing can be opened at {machines.address} ({str(opened).splitlines()[0]}); give an "
        "address of machine 0 that the others reach, and a port that is free"
    )


def _opened(machines: Machines) -> Meeting | RuntimeError:
    try:
        return Meeting(_store(machines, leads=True))
    except RuntimeError as error:
        return error


def reach_meeting(machines: Machines, seconds: float = WAIT_SECONDS) -> Meeting:
    """On the other machines: wait until machine 0 opens its next meeting, and come to it.

    Raises:
        ValueError: it did not for so long.
    """
    for _ in turns(seconds, lambda: f"machine 0 at {machines.address}"):
        if (meeting := _reached(machines)) is not None:
            return meeting
    raise ValueError(
        f"--meet: machine 0 has opened nothing at {machines.address} for {clock(seconds)}; start the same "
        "command with --machine 0 there, and see that the port can be reached from here"
    )


def _reached(machines: Machines) -> Meeting | None:
    try:
        # asked by hand first: the store's own attempts fill the log
        socket.create_connection((machines.host, machines.port), ANSWER_SECONDS).close()
        return Meeting(_store(machines, leads=False))
    except (OSError, RuntimeError):
        return None


def free_port() -> int:
    """A port of this machine that nothing listens on."""
    with socket.socket() as one:
        one.bind(("", 0))
        return int(one.getsockname()[1])


def _store(machines: Machines, leads: bool) -> TCPStore:
    return TCPStore(
        machines.host, machines.port, None, leads, timedelta(seconds=ANSWER_SECONDS), wait_for_workers=False
    )

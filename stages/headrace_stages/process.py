# SPDX-License-Identifier: Apache-2.0
"""A stage's process: dies with this one, is ended with all its children, and is found again if it was not."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from headrace_stages.stage import RunFolder, Stage

MARK = "HEADRACE_RUN"
"""In the environment of every process of a run: which run it belongs to."""
PATIENCE_SECONDS = 5.0
_PR_SET_PDEATHSIG = 1


def threads_environment(threads: int) -> dict[str, str]:
    """Variables that keep numerical libraries to so many threads."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
    return dict.fromkeys(names, str(threads))


def _die_with_parent() -> None:
    """In the child, before the command starts: a kill of the parent, even by SIGKILL, reaches it."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


@dataclass
class Started:
    """A process that was started with all its children in a group of its own."""

    process: subprocess.Popen[bytes]
    started: float = field(default_factory=time.monotonic, kw_only=True)
    processor_seconds: float = field(default=0.0, kw_only=True)  # of all its processes; known once it has ended

    @property
    def seconds(self) -> float:
        """Since it was started."""
        return time.monotonic() - self.started


@dataclass
class Running(Started):
    """A stage whose process is running."""

    stage: Stage
    log: Path
    log_start: int  # bytes of the log that earlier attempts wrote


def spawn(
    command: tuple[str, ...],
    home: Path | None = None,
    environment: Mapping[str, str] | None = None,
    output: IO[bytes] | None = None,
) -> subprocess.Popen[bytes]:
    """Start a command that ends with this process; what is not said, it has from this process."""
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT if output else None,
        cwd=home,
        env=environment,
        start_new_session=True,  # Ctrl-C reaches this process alone, which then ends the others in order
        preexec_fn=_die_with_parent,  # noqa: PLW1509  (it takes no lock)
    )


def start(folder: RunFolder, stage: Stage, fresh: bool, threads: int, extra: Mapping[str, str]) -> Running:
    """Start a stage in its folder. With `fresh`, its folder and its log are emptied first."""
    home, log = folder.stage(stage.name), folder.log(stage.name)
    if fresh:
        shutil.rmtree(home, ignore_errors=True)
        log.unlink(missing_ok=True)
    home.mkdir(parents=True, exist_ok=True)
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = os.environ | threads_environment(threads) | {"PYTHONUNBUFFERED": "1"} | dict(extra)
    environment[MARK] = folder.mark
    with log.open("ab") as file:
        begin = file.tell()
        file.write(f"\n$ {as_typed(stage.command)}\n".encode())
        file.flush()
        process = spawn(stage.command, home, environment, file)
    return Running(process, stage, log, begin)


def put_aside(folder: RunFolder, stage: Stage) -> Path | None:
    """Move away what a costly stage had made before it starts afresh, with its log; returns where, None for nothing."""
    home, log = folder.stage(stage.name), folder.log(stage.name)
    if not stage.costly or not home.is_dir() or not any(home.iterdir()):
        return None
    place = folder.aside(stage.name)
    home.rename(place)
    if log.exists():
        log.rename(place / log.name)
    return place


def has_ended(one: Started) -> bool:
    """Whether a process is over. It is not reaped yet: until it is, its group's number stays its own."""
    if one.process.returncode is not None:
        return True
    return os.waitid(os.P_PID, one.process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def end(running: Sequence[Started]) -> None:
    """End processes with all their children (data loaders outlive one that was killed): asked first, then killed."""
    left = [one for one in running if one.process.returncode is None]
    for one in left:
        _signal_group(one.process.pid, signal.SIGTERM)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not all(map(has_ended, left)) and time.monotonic() < deadline:
        time.sleep(0.02)
    for one in left:
        _signal_group(one.process.pid, signal.SIGKILL)
        _, status, used = os.wait4(one.process.pid, 0)  # what Popen.wait does, and how much it used
        one.process.returncode = os.waitstatus_to_exitcode(status)
        one.processor_seconds = used.ru_utime + used.ru_stime


def _signal_group(group: int, which: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, which)


def end_leftovers(mark: str) -> int:
    """Kill processes that an earlier, killed run in the same folder left behind; returns how many.

    They are told by the mark in their environment, so nothing else is ever hit. Call it with the folder's lock held.
    """
    told = f"{MARK}={mark}".encode()
    found = 0
    for path in Path("/proc").glob("[0-9]*/environ"):
        pid = int(path.parent.name)
        try:
            handle = os.pidfd_open(pid)  # first: from here on, the number cannot come to mean another process
        except OSError:
            continue
        try:
            if pid != os.getpid() and told in path.read_bytes().split(b"\0"):
                signal.pidfd_send_signal(handle, signal.SIGKILL)
                found += 1
        except OSError:  # ended meanwhile, or somebody else's
            continue
        finally:
            os.close(handle)
    return found


def as_typed(command: tuple[str, ...]) -> str:
    """A command as it can be typed in a shell."""
    return shlex.join(command)

# SPDX-License-Identifier: Apache-2.0
"""One line of progress: redrawn on a terminal, printed now and then into a log."""

from __future__ import annotations

import os
import shutil
import sys
import time
from dataclasses import dataclass
from typing import TextIO

from headrace.durations import clock

PLAIN_SECONDS = 15.0  # between two lines in a log
TERMINAL_SECONDS = 0.5


@dataclass(frozen=True)
class Now:
    """What the line says."""

    done: int
    total: int
    running: list[tuple[str, float | None, str]]  # name, share, detail
    elapsed_seconds: float
    left_seconds: float


class Display:
    """Writes events as lines of their own, and the line of progress below them."""

    def __init__(self, stream: TextIO = sys.stdout) -> None:
        self.stream = stream
        self.is_terminal = stream.isatty() and os.environ.get("TERM") != "dumb"
        self._last = -1e9
        self._last_text = ""

    def event(self, text: str) -> None:
        """A line that stays."""
        self._clear()
        print(text, file=self.stream, flush=True)

    def progress(self, now: Now) -> None:
        """Show how far everything is, not too often."""
        clock = time.monotonic()
        if clock - self._last < (TERMINAL_SECONDS if self.is_terminal else PLAIN_SECONDS):
            return
        self._last = clock
        text = line(now)
        if self.is_terminal:
            text = text[: shutil.get_terminal_size().columns - 1]
            self.stream.write(f"\r\x1b[2K{text}")
            self.stream.flush()
        elif text != self._last_text:
            print(text, file=self.stream, flush=True)
        self._last_text = text

    def close(self) -> None:
        """Take the line of progress away."""
        self._clear()

    def _clear(self) -> None:
        if self.is_terminal and self._last_text:
            self.stream.write("\r\x1b[2K")
            self.stream.flush()


def line(now: Now) -> str:
    """The line of progress."""
    parts = [f"[{clock(now.elapsed_seconds)}, about {clock(now.left_seconds)} left]  {now.done} of {now.total} stages"]
    for name, share, detail in now.running:
        percent = "" if share is None else f" {share:.0%}"
        parts.append(f"{name}{percent}" + (f" ({detail})" if detail else ""))
    return "  |  ".join(parts)

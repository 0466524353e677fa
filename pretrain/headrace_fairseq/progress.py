# SPDX-License-Identifier: Apache-2.0
"""One line on how far training is and when it will be done; fairseq's log does not say."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

logger = logging.getLogger("headrace_fairseq.progress")


class Progress:
    """Counts updates and logs the time that is left.

    Args:
        max_update: updates of the whole run.
        log_interval: updates between two lines.
        clock: seconds, monotonic.
    """

    def __init__(self, max_update: int, log_interval: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.max_update, self.log_interval, self.clock = max_update, log_interval, clock
        self._first: tuple[int, float] | None = None

    def update(self, num_updates: int) -> None:
        """Call after each update; a resumed run is timed from where it went on."""
        now = self.clock()
        if self._first is None or num_updates < self._first[0]:
            self._first = num_updates, now
            return
        first_update, first_time = self._first
        if num_updates == first_update or num_updates % self.log_interval:
            return
        seconds = (now - first_time) / (num_updates - first_update)
        left = _minutes(seconds * max(0, self.max_update - num_updates))
        share = num_updates / self.max_update
        logger.info(f"update {num_updates} of {self.max_update} ({share:.0%}), {seconds:.2f} s/update, {left} left")


def _minutes(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours} h {rest // 60:02d} min" if hours else f"{rest // 60} min {rest % 60:02d} s"

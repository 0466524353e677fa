# SPDX-License-Identifier: Apache-2.0
"""How long the rest will take: what is left of each stage, laid out on the jobs as the scheduler will."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence

from headrace_stages.stage import Stage

MIN_SHARE = 0.03
"""Below it, a stage's own progress says less than what was expected of it."""
TRUSTED_SECONDS = 60.0


def seconds_left(expected_seconds: float, elapsed: float, share: float | None) -> float:
    """What is left of a running stage, from its own progress once that says something."""
    if share is not None and share >= MIN_SHARE:
        by_progress = elapsed * (1 - share) / share
        # Progress counts steps, and the first seconds go into starting up: lean on it as it grows.
        return share * by_progress + (1 - share) * max(expected_seconds * (1 - share), 0.0)
    return max(expected_seconds - elapsed, 0.2 * expected_seconds)


def pace(expected_seconds: float, taken_seconds: float) -> float:
    """How much slower this machine is than the one the experiment was sized on.

    Args:
        expected_seconds: of what is done, of running stages the part that is done.
        taken_seconds: by the same. Seconds of manifests say little about an hour of training: what is done counts
            beside `TRUSTED_SECONDS` that go as expected.
    """
    return (TRUSTED_SECONDS + taken_seconds) / (TRUSTED_SECONDS + expected_seconds)


def critical_seconds(stages: Sequence[Stage]) -> dict[str, float]:
    """Per stage, the expected seconds from its start to the end of the longest chain that hangs on it."""
    longest = {stage.name: stage.expected_seconds for stage in stages}
    for stage in reversed(stages):
        for name in stage.after:
            before = next(one for one in stages if one.name == name)
            longest[name] = max(longest[name], before.expected_seconds + longest[stage.name])
    return longest


def makespan(stages: Sequence[Stage], left: Mapping[str, float], running: Sequence[str], jobs: int) -> float:
    """Seconds until all stages are done when they are laid out on `jobs` by their critical chains.

    Args:
        stages: all stages, in an order where each comes after those that it needs.
        left: seconds left per stage that is not done; running ones included.
        running: names of those that occupy a job now.
        jobs: stages side by side.
    """
    order = critical_seconds(stages)
    clock = 0.0
    busy = [(left[name], name) for name in running]
    heapq.heapify(busy)
    waiting = [stage for stage in stages if stage.name in left and stage.name not in running]
    while busy or waiting:
        undone = {name for _, name in busy} | {stage.name for stage in waiting}
        ready = [stage for stage in waiting if not undone & set(stage.after)]
        for stage in sorted(ready, key=lambda one: -order[one.name])[: max(0, jobs - len(busy))]:
            heapq.heappush(busy, (clock + left[stage.name], stage.name))
            waiting.remove(stage)
        if not busy:
            break
        clock, _ = heapq.heappop(busy)
    return clock

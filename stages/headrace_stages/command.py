# SPDX-License-Identifier: Apache-2.0
"""How a command that runs stages ends: its exit code, and one line of what was wrong."""

from __future__ import annotations

import sys
from collections.abc import Callable

from headrace_stages.scheduler import StageFailedError, StoppedError


def ended(program: str, work: Callable[[], None]) -> int:
    """Do the work: 0 done, 1 a stage failed, 2 the caller's mistake or a full disk, 130 stopped."""
    try:
        work()
    except (ValueError, OSError) as error:
        print(f"{program}: {error}", file=sys.stderr)
        return 2
    except StageFailedError as failure:
        print(f"{program}: {failure}", file=sys.stderr)
        return 1
    except (StoppedError, KeyboardInterrupt):
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 130
    return 0

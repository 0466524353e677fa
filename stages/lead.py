#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Machine 0's process of a stage that all machines run; started by pretrain/hubert.py --machines, see its README.

python stages/lead.py MACHINES PROCESSES HOST:PORT STAGE -- COMMAND...
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(CHECKOUT / "stages"), str(CHECKOUT)]

from headrace_stages.leader import Leader  # noqa: E402
from headrace_stages.machines import SPLIT, Machines, MeetingLostError, address, open_meeting  # noqa: E402


def main(arguments: list[str]) -> int:
    """The exit code: 0 when all machines' parts ended well."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # ends this machine's part in order
    try:
        count, processes, where, stage, split, *command = arguments
        if split != SPLIT:
            raise ValueError(f"expected MACHINES PROCESSES HOST:PORT STAGE -- COMMAND..., got {arguments}")
        machines = Machines(int(count), 0, *address(where), int(processes))
        return Leader(machines, open_meeting(machines), stage, command).run()
    except (ValueError, MeetingLostError) as error:
        print(f"lead.py: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

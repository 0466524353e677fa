# SPDX-License-Identifier: Apache-2.0
"""The caller's mistakes as one clear line and exit code 2 on the command line, as exceptions everywhere else."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fairseq.distributed.utils import get_global_rank
from hydra.core.hydra_config import HydraConfig

PROGRAMS = ("fairseq-hydra-train", "hydra_train.py")  # the command, and ``python -m fairseq_cli.hydra_train``
FIRST_RANK_SECONDS = 10.0


@contextmanager
def one_clear_line() -> Iterator[None]:
    """Under ``fairseq-hydra-train``, end the program on a ValueError or OSError without a traceback."""
    try:
        yield
    except (ValueError, OSError) as error:
        if not _is_command_line():
            raise
        if get_global_rank() > 0:  # a mistake that all processes meet is told by the first; its end ends the others
            time.sleep(FIRST_RANK_SECONDS)
        print(f"headrace_fairseq: {error}", file=sys.stderr, flush=True)
        raise SystemExit(2) from None


def _is_command_line() -> bool:
    """Hydra knows in the process that it started; one that fairseq spawned for a GPU has its parent's arguments."""
    return HydraConfig.initialized() or Path(sys.argv[0]).name in PROGRAMS

# SPDX-License-Identifier: Apache-2.0
"""The caller's mistakes as one clear line and exit code 2 on the command line, as exceptions everywhere else."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from hydra.core.hydra_config import HydraConfig


@contextmanager
def one_clear_line() -> Iterator[None]:
    """Under ``fairseq-hydra-train``, end the program on a ValueError or OSError without a traceback."""
    try:
        yield
    except (ValueError, OSError) as error:
        if not HydraConfig.initialized():
            raise
        print(f"headrace_fairseq: {error}", file=sys.stderr, flush=True)
        raise SystemExit(2) from None

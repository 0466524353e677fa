# SPDX-License-Identifier: Apache-2.0
"""Who computes an operation: the native kernels where they were built, the blocked torch path otherwise."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from headrace.ops import native

BACKENDS = ("native", "torch")

_chosen: str | None = None


@contextmanager
def backend(name: str) -> Iterator[None]:
    """Let ``native`` or ``torch`` compute the operations inside the block, for a test or a benchmark.

    Raises:
        ValueError: an unknown name, or native kernels that are not there, with the reason.
    """
    global _chosen  # noqa: PLW0603
    if name not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {name!r}.")
    if name == "native" and not native.STATUS.is_loaded:
        raise ValueError(f"backend 'native' is not there: {native.STATUS.reason}. Use 'torch'.")
    before, _chosen = _chosen, name
    try:
        yield
    finally:
        _chosen = before


def runs_native(q: torch.Tensor) -> bool:
    """Whether the native kernels compute a call with this q."""
    return _chosen != "torch" and q.device.type in native.STATUS.devices

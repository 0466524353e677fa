# SPDX-License-Identifier: Apache-2.0
"""Who computes an operation: the native kernels where they were built, the blocked torch path otherwise."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from headrace.ops import native
from headrace.ops.arguments import is_of_queries

BACKENDS = ("native", "torch")

_chosen: str | None = None
_new_enough: dict[int, bool] = {}  # by the number of the GPU


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


def runs_native(q: torch.Tensor, bias: torch.Tensor | None = None) -> bool:
    """Whether the native kernels compute a call with this q and relative bias; a GPU's take none for each query."""
    if _chosen == "torch" or q.device.type not in native.STATUS.devices:
        return False
    if q.device.type == "cuda":
        return q.dtype != torch.float64 and not is_of_queries(bias) and _is_new_enough(q.device.index)
    return True


def _is_new_enough(gpu: int) -> bool:
    if gpu not in _new_enough:
        capability = torch.cuda.get_device_capability(gpu)
        _new_enough[gpu] = capability >= native.OLDEST_GPU
        if not _new_enough[gpu]:
            name, number = torch.cuda.get_device_name(gpu), "{}{}".format(*capability)
            warnings.warn(
                f"headrace: GPU {gpu} ({name}) is sm_{number}, and the kernels need sm_80: the torch path computes.",
                stacklevel=2,
            )
    return _new_enough[gpu]


# what torch.compiler.assume_constant_result does, which would import torch._dynamo, two seconds at each start
_is_new_enough._dynamo_marked_constant = True

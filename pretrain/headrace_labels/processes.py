# SPDX-License-Identifier: Apache-2.0
"""One process or many: what torchrun says, and the few things that processes tell each other."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist

# Parts are uneven and take hours: who is done waits for the slowest. torch's default, minutes, would end them all.
# Nobody waits this long for a process that died: torchrun ends the others.
LONGEST_WAIT = timedelta(days=7)


@contextmanager
def joined() -> Iterator[str]:
    """Within the block, the processes that torchrun started know each other; gives this one's device.

    A GPU of its own where the machine has one for each of its processes, else the CPU for all of them.
    """
    device = "cpu"
    if torch.cuda.is_available() and torch.cuda.device_count() >= int(os.environ.get("LOCAL_WORLD_SIZE", "1")):
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
        torch.cuda.set_device(device)
    if "RANK" not in os.environ:
        yield device
        return
    dist.init_process_group("gloo" if device == "cpu" else "cpu:gloo,cuda:nccl", timeout=LONGEST_WAIT)
    try:
        yield device
    finally:
        dist.destroy_process_group()


def rank() -> int:
    """This process's number."""
    return dist.get_rank() if dist.is_initialized() else 0


def size() -> int:
    """How many there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def barrier() -> None:
    """Wait until all are here."""
    if size() > 1:
        dist.barrier()


def broadcast(x: torch.Tensor) -> None:
    """Give the first process's values to all, in place."""
    if size() > 1:
        dist.broadcast(x, 0)


def add_up(x: torch.Tensor) -> None:
    """Sum over all processes, in place."""
    if size() > 1:
        dist.all_reduce(x)


def gather(x: torch.Tensor) -> list[torch.Tensor]:
    """The tensor of every process, all of one shape."""
    if size() == 1:
        return [x]
    found = [torch.empty_like(x) for _ in range(size())]
    dist.all_gather(found, x)
    return found


def gather_rows(x: torch.Tensor) -> list[torch.Tensor]:
    """[n, D] of every process, whose n differ."""
    counts = [int(count) for count in gather(torch.tensor([len(x)]))]
    padded = x.new_zeros(max(counts), x.shape[1])
    padded[: len(x)] = x
    return [rows[:count] for rows, count in zip(gather(padded), counts, strict=True)]

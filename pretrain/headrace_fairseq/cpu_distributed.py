# SPDX-License-Identifier: Apache-2.0
"""fairseq's training in several processes on CPUs, under torchrun.

It breaks in three places without GPUs. Ranks are taken modulo the number of GPUs, and DistributedDataParallel is told a
GPU's number: ``configs/distributed/cpu_torchrun.yaml`` gives the ranks and fairseq's own wrapper. What the processes
tell each other goes through a buffer on a GPU: here it does not.
"""

from __future__ import annotations

from typing import Any

import torch.distributed as dist
from fairseq import utils
from fairseq.distributed import utils as distributed_utils


def all_gather_list(data: Any, group: Any = None, max_size: int = 16384) -> list[Any]:
    """In place of fairseq's: ``data`` of every process, by rank.

    Args:
        data: anything that can be pickled, of at most ``max_size`` bytes on a GPU.
        group: of processes; all of them without.
    """
    group = group or distributed_utils.get_global_group()
    if not isinstance(group, dist.ProcessGroup) or dist.get_backend(group) != "gloo":
        return _FAIRSEQ(data, group, max_size)
    found: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(found, utils.move_to_cpu(data), group)
    return found


def install() -> None:
    """Give fairseq this function for its own."""
    distributed_utils.all_gather_list = all_gather_list


_FAIRSEQ = distributed_utils.all_gather_list

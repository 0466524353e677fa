# SPDX-License-Identifier: Apache-2.0
"""One training in several processes, one a GPU, as torchrun and torch.distributed.launch start them.

s3prl trains data-parallel as soon as it is told its `--local_rank`: every process runs the encoder on its share of each
epoch, gradients are averaged, and rank 0 alone logs, evaluates and writes checkpoints. Here stand who leads, where the
others wait for the leader, and what that road of s3prl 0.4.18 needs of yesterday's torch.
"""

from __future__ import annotations

import importlib
import os
from collections import UserDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from headrace_downstream.replace import replaced

# How long the others wait while the leader checks the corpus or evaluates; a leader that fails ends them at once,
# because the launcher does.
PATIENCE = timedelta(hours=6)
GIVEN_BY_LAUNCHERS = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Processes:
    """This process among those that train together; by default it is alone, started by no launcher."""

    local_rank: int | None = None
    rank: int = 0
    world_size: int = 1
    backend: str = ""
    store: distributed.Store | None = None

    @property
    def is_leader(self) -> bool:
        """True for the one process that settles, prints, evaluates and writes scores."""
        return self.rank == 0

    @property
    def number_if_launched(self) -> int | None:
        """How many train together; None where no launcher started them, as in s3prl's checkpoints (WorldSize)."""
        return None if self.store is None else self.world_size

    def meet(self, where: str) -> None:
        """Wait here until the leader has come by."""
        if self.store is None:
            return
        if self.is_leader:
            self.store.set(f"headrace/{where}", "")
        else:
            self.store.wait([f"headrace/{where}"], PATIENCE)

    def flags(self) -> list[str]:
        """s3prl's flags for a training in these processes."""
        if self.store is None:
            return []
        return ["--local_rank", str(self.local_rank), "--backend", self.backend]

    @contextmanager
    def training(self, name: str, device: str) -> Iterator[None]:
        """Within the block s3prl trains in these processes, on today's torch; their group ends with the block.

        Args:
            name: of the training; each has its own group.
            device: cpu, or cuda for the GPU of this process's local rank.
        """
        if self.store is None:
            yield
            return
        runner = importlib.import_module("s3prl.downstream.runner")
        with ExitStack() as stack:
            stack.enter_context(replaced(distributed, "init_process_group", self._join(name)))
            stack.enter_context(replaced(runner, "DDP", data_parallel))
            stack.enter_context(replaced(runner, "defaultdict", Records))
            if not self.is_leader:
                count = UpdateCount()
                stack.enter_context(replaced(runner, "tqdm", count.bar))
                stack.enter_context(replaced(nn.utils, "clip_grad_norm_", count.clip))
            if device == "cpu":
                stack.enter_context(replaced(torch.cuda, "set_device", lambda local_rank: None))
            yield
            # not after an error: the others may stand in mid-update, and only the launcher ends them
            distributed.destroy_process_group()

    def _join(self, name: str) -> Callable[[str], None]:
        """init_process_group with a place of its own in the store: a group that ended leaves its addresses there."""
        begin = distributed.init_process_group

        def join(backend: str) -> None:
            store = distributed.PrefixStore(f"training/{name}", self.store)
            begin(backend, store=store, rank=self.rank, world_size=self.world_size, timeout=PATIENCE)

        return join


ALONE = Processes()


def find(local_rank: int | None, backend: str | None, device: str) -> Processes:
    """Which process a launcher made this one, from its flag or its environment.

    Args:
        local_rank: `--local-rank`, as torch.distributed.launch gives it; torchrun sets LOCAL_RANK.
        backend: `--backend`; default: nccl for GPUs, gloo for CPUs.
        device: `--device`.

    Raises:
        ValueError: the launcher's environment is incomplete, or there is no GPU of that rank.
    """
    if local_rank is None and (text := os.environ.get("LOCAL_RANK")) is not None:
        local_rank = int(text)
    if local_rank is None:
        return ALONE
    if missing := [name for name in GIVEN_BY_LAUNCHERS if not os.environ.get(name)]:
        raise ValueError(
            f"--local-rank {local_rank} (or LOCAL_RANK): set, but {', '.join(missing)} are not; start several "
            "processes with torchrun --nproc-per-node N downstream/run.py ..., and one with neither flag nor variable"
        )
    if device.startswith("cuda"):
        _check_gpu(local_rank, device)
    store, rank, world_size = next(distributed.rendezvous("env://", timeout=PATIENCE))
    return Processes(local_rank, rank, world_size, backend or ("gloo" if device == "cpu" else "nccl"), store)


def _check_gpu(local_rank: int, device: str) -> None:
    if device != "cuda":
        raise ValueError(f"--device {device}: several processes take a GPU each by their rank; give --device cuda")
    if local_rank >= (count := torch.cuda.device_count()):
        raise ValueError(f"--local-rank {local_rank}: this machine has {count} GPUs; start {count} processes at most")


def data_parallel(model: nn.Module, device_ids: list[int], find_unused_parameters: bool) -> DistributedDataParallel:
    """DDP as s3prl calls it, less two things.

    Buffers are not broadcast at each forward: rank 0 alone evaluates, and nobody would receive; and s3prl's experts
    put a CPU tensor in the place of their buffer `best_score`. Modules on CPUs get no device_ids, which torch refuses.
    """
    on_cpu = all(parameter.device.type == "cpu" for parameter in model.parameters())
    return DistributedDataParallel(
        model,
        device_ids=None if on_cpu else device_ids,
        find_unused_parameters=find_unused_parameters,
        broadcast_buffers=False,
    )


class UpdateCount:
    """Ends the training of a process that is not the leader: s3prl counts updates on the leader's progress bar alone,
    so that the others would go on, and wait for gradients that nobody sends any more.

    `bar` takes the place of tqdm in s3prl's runner, and `clip`, which every update calls once, of clip_grad_norm_.
    """

    def __init__(self) -> None:
        self._clip = nn.utils.clip_grad_norm_

    def bar(
        self,
        iterable: Iterable[Any] | None = None,
        total: int | None = None,
        desc: str | None = None,
        dynamic_ncols: bool = False,
        file: Any = None,
    ) -> tqdm:
        """A progress bar; the one over nothing is of the updates, and its count ends the training."""
        bar = tqdm(iterable, total=total, desc=desc, dynamic_ncols=dynamic_ncols, file=file)
        if iterable is None:
            self._updates = bar
        return bar

    def clip(self, parameters: Iterable[Tensor], max_norm: float) -> Tensor:
        """Clip the gradients, and count the update."""
        self._updates.update(1)
        return self._clip(parameters, max_norm)


class Records(UserDict):
    """In the place of the defaultdict that s3prl's runner collects scores in.

    On its way to the GPU, DDP rebuilds every dict among the arguments: it cannot rebuild a defaultdict (which s3prl
    patched builtins.isinstance for), and would lose what the model writes into it. This is no dict, and goes as it is.
    """

    def __init__(self, factory: Callable[[], Any]) -> None:
        super().__init__()
        self._factory = factory

    def __missing__(self, key: str) -> Any:
        self.data[key] = self._factory()
        return self.data[key]

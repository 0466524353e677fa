#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Pretrain a HuBERT in all its iterations, from manifests to a portable folder; the same command goes on after a kill.

    python pretrain/hubert.py hubert_tiny --data MANIFESTS --dest runs/hubert_tiny
    python pretrain/hubert.py hubert_tiny --data MANIFESTS --dest runs/full model.mixer=full common.seed=2
    python pretrain/hubert.py hubert_base_librispeech --data MANIFESTS --dest RUN --processes 8 --dry-run
    srun --ntasks-per-node=1 bash -c 'python pretrain/hubert.py hubert_base_librispeech --data MANIFESTS --dest RUN \
        --processes 8 --machines $SLURM_NNODES --machine $SLURM_NODEID --meet FIRST_NODE:29400'

PLAN is a file in pretrain/plans or a path to one of your own; KEY=VALUE go to fairseq-hydra-train in every iteration.
Each stage is a command that can be typed by hand. It is skipped when its outputs are whole and were made from what
would be read now, and gone on with when it was begun.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

import torch

CHECKOUT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(CHECKOUT / folder) for folder in ("pretrain", "stages", ".")]

from headrace.durations import clock  # noqa: E402
from headrace_pretraining.iterations import Iterations, plan_path, read_plan, told  # noqa: E402
from headrace_stages.command import ended  # noqa: E402
from headrace_stages.joiner import Joiner  # noqa: E402
from headrace_stages.leader import farewell  # noqa: E402
from headrace_stages.machines import Machines, address  # noqa: E402
from headrace_stages.scheduler import InUseError, Scheduler  # noqa: E402
from headrace_stages.stage import RunFolder  # noqa: E402

# What the plan or this command sets, and who says it.
SET_HERE = {
    "optimization.max_update": "the plan says it for each iteration (updates)",
    "task.label_rate": "it follows from what an iteration clusters",
    "task.label_dir": "labels stand below --dest",
    "task.data": "--data says it",
    "hydra.run.dir": "--dest says it for all iterations",
    "checkpoint.save_dir": "checkpoints stand below --dest",
    "distributed_training.distributed_world_size": "--processes and --machines say it",
    "distributed": "--processes and --machines say it",
}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("plan", metavar="PLAN")
    p.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="for fairseq-hydra-train, in every iteration")
    p.add_argument("--data", type=Path, required=True, metavar="DIR", help="the folder of train.tsv and valid.tsv")
    p.add_argument("--dest", type=Path, required=True, metavar="DIR", help="where everything is kept")
    p.add_argument("--processes", type=int, default=1, metavar="N", help="a machine's, one for each GPU (default 1)")
    p.add_argument("--machines", type=int, default=1, metavar="M", help="that run it together (default 1)")
    p.add_argument("--machine", type=int, default=0, metavar="K", help="which this is; 0, the default, leads")
    p.add_argument("--meet", metavar="HOST:PORT", help="of machine 0, with --machines")
    p.add_argument("--threads", type=int, metavar="N", help="of each process (default: OMP_NUM_THREADS or cores, / N)")
    p.add_argument("--dry-run", action="store_true", help="print the plan, its sizes and times, and do nothing")
    return p


def prepare(options: argparse.Namespace) -> Iterations:
    """Read the plan. Raises ValueError for the caller's mistakes."""
    if options.processes < 1:
        raise ValueError(f"--processes: expected 1 or more, got {options.processes}")
    if odd := [one for one in options.overrides if "=" not in one]:
        raise ValueError(f"expected KEY=VALUE, got {odd[0]!r}")
    for one in options.overrides:
        key = one.partition("=")[0].lstrip("+~")
        if key in SET_HERE:
            raise ValueError(f"{key}: expected no override, as {SET_HERE[key]}; got {one!r}, leave it out")
    plan, machines = read_plan(plan_path(options.plan)), machines_of(options)
    iterations = Iterations(
        plan,
        RunFolder(options.dest.resolve(), options.machine),
        options.data.resolve(),
        options.overrides,
        options.processes * options.machines,
        torch.cuda.is_available(),
        machines,
    )
    iterations.check()
    if iterations.trains_on_gpus and options.processes > (gpus := torch.cuda.device_count()):
        raise ValueError(
            f"--processes: expected {gpus} or fewer, a GPU for each, got {options.processes}; "
            "common.cpu=true trains on CPUs"
        )
    return iterations


def machines_of(options: argparse.Namespace) -> Machines | None:
    """None for one machine. Raises ValueError for options that do not go together."""
    if options.meet is None:
        for name in ("machines", "machine"):
            if (value := getattr(options, name)) != parser().get_default(name):
                raise ValueError(f"--meet: expected HOST:PORT of machine 0, as --{name} {value} is given, got nothing")
        return None
    return Machines(options.machines, options.machine, *address(options.meet), options.processes)


def run_stages(iterations: Iterations, threads: int) -> None:
    """On machine 0, or on the only one, run all stages; on the others take part in those that are for all."""
    folder, stages, machines = iterations.folder, iterations.stages(), iterations.machines
    if machines is not None and machines.this > 0:
        Joiner(folder, stages, machines, threads).run()
        return
    scheduler = Scheduler(folder, stages, 1, threads, {}, "")
    if machines is None:
        scheduler.run()
        return
    try:
        scheduler.run()
    except InUseError:  # the others are that run's
        raise
    except BaseException:
        farewell(machines, "badly")
        raise
    farewell(machines, "well")


def main(arguments: list[str] | None = None) -> int:
    """The exit code: see headrace_stages/command.py."""
    options = parser().parse_intermixed_args(arguments)
    started = time.monotonic()

    def run() -> None:
        iterations = prepare(options)
        if options.dry_run:
            print("\n".join(told(iterations)))
            return
        # what an outer run allows; else all cores
        allowed = int(os.environ.get("OMP_NUM_THREADS") or 0) or (os.cpu_count() or 1)
        threads = options.threads or max(1, allowed // options.processes)
        run_stages(iterations, threads)
        if options.machine > 0:
            return
        print("".join(f"warning: {line}\n" for line in iterations.findings()), end="")
        print(f"{iterations.folder.stage('export') / 'encoder'}  (this start: {clock(time.monotonic() - started)})")

    return ended("hubert.py", run)


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Pretrain a HuBERT in all its iterations, from manifests to a portable folder; the same command goes on after a kill.

    python pretrain/hubert.py hubert_tiny --data MANIFESTS --dest runs/hubert_tiny
    python pretrain/hubert.py hubert_tiny --data MANIFESTS --dest runs/full model.mixer=full common.seed=2
    python pretrain/hubert.py hubert_base_librispeech --data MANIFESTS --dest RUN --processes 8 --dry-run

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
from headrace_stages.scheduler import Scheduler  # noqa: E402
from headrace_stages.stage import RunFolder  # noqa: E402

# What the plan or this command sets, and who says it.
SET_HERE = {
    "optimization.max_update": "the plan says it for each iteration (updates)",
    "task.label_rate": "it follows from what an iteration clusters",
    "task.label_dir": "labels stand below --dest",
    "task.data": "--data says it",
    "hydra.run.dir": "--dest says it for all iterations",
    "checkpoint.save_dir": "checkpoints stand below --dest",
    "distributed_training.distributed_world_size": "--processes says it",
    "distributed": "--processes says it",
}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("plan", metavar="PLAN")
    p.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="for fairseq-hydra-train, in every iteration")
    p.add_argument("--data", type=Path, required=True, metavar="DIR", help="the folder of train.tsv and valid.tsv")
    p.add_argument("--dest", type=Path, required=True, metavar="DIR", help="where everything is kept")
    p.add_argument("--processes", type=int, default=1, metavar="N", help="under torchrun, one for each GPU (default 1)")
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
    plan = read_plan(plan_path(options.plan))
    folder = RunFolder(options.dest.resolve())
    iterations = Iterations(
        plan, folder, options.data.resolve(), options.overrides, options.processes, torch.cuda.is_available()
    )
    iterations.check()
    if iterations.trains_on_gpus and options.processes > (gpus := torch.cuda.device_count()):
        raise ValueError(
            f"--processes: expected {gpus} or fewer, a GPU for each, got {options.processes}; "
            "common.cpu=true trains on CPUs"
        )
    return iterations


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
        Scheduler(iterations.folder, iterations.stages(), 1, threads, {}, "").run()
        print("".join(f"warning: {line}\n" for line in iterations.findings()), end="")
        print(f"{iterations.folder.stage('export') / 'encoder'}  (this start: {clock(time.monotonic() - started)})")

    return ended("hubert.py", run)


if __name__ == "__main__":
    sys.exit(main())

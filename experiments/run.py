#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Run an experiment from corpora to report; the same command goes on where a killed run stopped.

    python experiments/run.py demo
    python experiments/run.py demo --asr-root CORPUS --ser-root CORPUS
    python experiments/run.py an4_emodb --markdown RESULTS.md

EXPERIMENT is a file in experiments/ (demo, an4_emodb, an4_emodb_hubert, ...) or a path to one of your own.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(CHECKOUT / folder) for folder in ("experiments", "stages", "pretrain", "downstream")]

from headrace.durations import clock  # noqa: E402
from headrace_experiments import description, experiment, machine, report_file, results_file, room  # noqa: E402
from headrace_experiments.plan import Plan, Speech, folder_name, other_corpora, speech_of  # noqa: E402
from headrace_experiments.table import for_terminal  # noqa: E402
from headrace_stages import stamps  # noqa: E402
from headrace_stages.command import ended  # noqa: E402
from headrace_stages.scheduler import Scheduler  # noqa: E402
from headrace_stages.stage import RunFolder  # noqa: E402


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("experiment", metavar="EXPERIMENT")
    p.add_argument("--asr-root", type=Path, metavar="DIR", help="speech with transcripts, LibriSpeech layout")
    p.add_argument("--ser-root", type=Path, metavar="DIR", help="emotional speech, IEMOCAP layout")
    p.add_argument(
        "--run-dir",
        type=Path,
        metavar="DIR",
        help="where everything is kept (runs/EXPERIMENT, or one for each choice of corpora)",
    )
    p.add_argument("--jobs", type=int, metavar="N", help="stages side by side (2, or 1 on one core)")
    p.add_argument("--threads", type=int, metavar="N", help="threads of each stage (cores / jobs)")
    p.add_argument(
        "--markdown", type=Path, metavar="FILE", help="put the table between its marks in this file, at the end"
    )
    return p


def find(name: str) -> Path:
    """The file of an experiment. Raises ValueError where there is none."""
    for path in (Path(name), CHECKOUT / "experiments" / f"{name}.yaml"):
        if path.is_file():
            return path
    known = ", ".join(sorted(path.stem for path in (CHECKOUT / "experiments").glob("*.yaml")))
    raise ValueError(f"EXPERIMENT: there is no {name!r}; there are {known}, or give the path of a YAML file")


def prepare(options: argparse.Namespace) -> tuple[Scheduler, RunFolder]:
    """Read the experiment and lay out its stages. Raises ValueError for the caller's mistakes."""
    for name in ("jobs", "threads"):
        if (value := getattr(options, name)) is not None and value < 1:
            raise ValueError(f"--{name}: expected 1 or more, got {value}")
    one = experiment.read(find(options.experiment))
    others = other_corpora(one, options.asr_root, options.ser_root)
    refuse_in_vain(one, others, options.markdown)
    folder = RunFolder((options.run_dir or CHECKOUT / "runs" / folder_name(one, others)).resolve())
    speech = speech_of(one, folder, options.asr_root, options.ser_root)
    description.claim(folder.root)
    cores = machine.num_cores()
    jobs = options.jobs or min(2, cores)
    threads = options.threads or max(1, cores // jobs)
    left_out, free = room.without_room(room.needs(one, speech), folder, jobs)
    if left_out:
        print(room.told(left_out, free), flush=True)
    plan = Plan(one, folder, speech, frozenset(need.stage for need in left_out))
    plan.write_configs()
    stages = plan.stages()
    about = facts(folder, speech, jobs, threads) | {"other_corpora": bool(others)}
    description.write(folder, one, about, stages)
    environment = {"MPLBACKEND": "svg", "PYTHONHASHSEED": "0"}
    return Scheduler(folder, stages, jobs, threads, environment, machine.commit(CHECKOUT)), folder


def refuse_in_vain(one: experiment.Experiment, others: dict[str, Path], markdown: Path | None) -> None:
    """Raise ValueError for a run that could not end, or whose numbers would stand where they do not belong."""
    if others and markdown:
        raise ValueError(
            f"--markdown: {markdown} has the numbers of {one.name} on its own corpora, but {' and '.join(others)} gave "
            "others; leave them out, or write an experiment file for these corpora (experiments/README.md)"
        )
    if one.needs_gpu and not machine.has_gpu():
        raise ValueError(f"{one.name} needs a GPU, and torch sees none; an4_emodb is sized for CPUs")


def facts(folder: RunFolder, speech: Speech, jobs: int, threads: int) -> dict[str, Any]:
    """What the report says of the run beside the experiment."""
    names = {
        name: "synthesised by espeak-ng" if made else os.path.relpath(path, CHECKOUT)
        for name, path, made in zip(("asr", "ser"), (speech.asr, speech.ser), speech.is_synthesised, strict=True)
    }
    command = report_file.portable(shlex.join(["python", "experiments/run.py", *sys.argv[1:]]), folder.root)
    return names | {"splits": asdict(speech.splits), "command": command, "jobs": jobs, "threads": threads}


def finished(scheduler: Scheduler, folder: RunFolder) -> dict[str, Any]:
    """The report of a run that is over, whose wall time now has the making of the report in it."""
    path = folder.root / report_file.NAME
    report = report_file.read(path)
    report["made"]["wall_seconds"] = stamps.wall_seconds(folder, [stage.name for stage in scheduler.stages])
    report_file.write(path, report)
    return report


def main(arguments: list[str] | None = None) -> int:
    """The exit code: see headrace_stages/command.py."""
    options = parser().parse_args(arguments)
    started = time.monotonic()

    def run() -> None:
        scheduler, folder = prepare(options)
        print(f"{len(scheduler.stages)} stages in {folder.root}", flush=True)
        scheduler.run()
        report = finished(scheduler, folder)
        if options.markdown:
            results_file.write_table(options.markdown, report_file.read(results_file.store(report)))
        print(f"\n{for_terminal(report, colour=sys.stdout.isatty())}\n")
        print(f"{folder.root / 'report.html'}  (this start: {clock(time.monotonic() - started)})")

    return ended("run.py", run)


if __name__ == "__main__":
    sys.exit(main())

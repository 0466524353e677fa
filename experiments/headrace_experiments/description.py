# SPDX-License-Identifier: Apache-2.0
"""RUN/experiment.json: what a run is, written before its first stage and read by its report."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from headrace_downstream.files import write_whole
from headrace_experiments.experiment import Corpora, Experiment, Pretraining, Row, Task
from headrace_stages.stage import RunFolder, Stage

NAME = "experiment.json"


def claim(root: Path) -> None:
    """Raise ValueError where the folder holds something that is no run: stages empty their folders."""
    if root.exists() and not root.is_dir():
        raise ValueError(f"--run-dir: {root} is a file; expected a folder, new or of an earlier run")
    strange = [path.name for path in root.iterdir() if path.name != ".lock"] if root.is_dir() else []
    if strange and not (root / NAME).is_file():
        raise ValueError(f"--run-dir: {root} holds no run but {strange[0]}; choose a folder that is new or of a run")


def write(folder: RunFolder, experiment: Experiment, facts: dict[str, Any], stages: Sequence[Stage]) -> None:
    """Write what the run is; it appears whole."""
    content = {"experiment": asdict(experiment), "facts": facts, "stages": [stage.name for stage in stages]}
    write_whole(folder.root / NAME, json.dumps(content, indent=1) + "\n")


def read(folder: RunFolder) -> tuple[Experiment, dict[str, Any], list[str]]:
    """The experiment, what else is known of the run, and the names of its stages.

    Raises:
        ValueError: the folder holds no run.
    """
    path = folder.root / NAME
    if not path.is_file():
        raise ValueError(f"{folder.root} holds no run ({NAME} is missing); give the folder of experiments/run.py")
    content = json.loads(path.read_text(encoding="utf-8"))
    values = content["experiment"]
    values["corpora"] = Corpora(**values["corpora"])
    for key, kind in (("pretraining", Pretraining), ("rows", Row), ("tasks", Task)):
        values[key] = {name: kind(**part) for name, part in values[key].items()}
    return Experiment(**values), content["facts"], content["stages"]

# SPDX-License-Identifier: Apache-2.0
"""s3prl's checkpoints in an experiment folder: states-STEP.ckpt, the newest few, and <dev split>-best.ckpt."""

from __future__ import annotations

import argparse
import pickle
from pathlib import Path
from typing import Any

import torch


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint without running any code in it: Args, Config, Step, Epoch, Featurizer, Downstream, Optimizer.

    Raises:
        ValueError: it is not there, or is no whole checkpoint of s3prl.
    """
    if not path.is_file():
        raise ValueError(f"-e {path}: no such file")
    try:
        states = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError) as why:
        raise ValueError(
            f"-e {path}: no whole checkpoint of s3prl ({str(why).splitlines()[0]}); choose another"
        ) from why
    if not isinstance(states, dict) or not isinstance(states.get("Args"), argparse.Namespace):
        raise ValueError(f"-e {path}: no checkpoint of s3prl's run_downstream; choose another")
    return states


def newest(folder: Path) -> Path | None:
    """The states-*.ckpt with the most steps, or None."""
    return max(folder.glob("states-*.ckpt"), key=lambda path: int(path.stem.split("-")[-1]), default=None)


def best(folder: Path) -> Path:
    """The checkpoint that did best on dev; the newest where none was ever better than s3prl's starting mark (WER 100).

    Raises:
        ValueError: the folder holds neither.
    """
    found = next(iter(sorted(folder.glob("*-best.ckpt"))), None) or newest(folder)
    if found is None:
        raise ValueError(f"-p {folder}: holds no checkpoint to evaluate; train first (-m train,evaluate)")
    return found


def is_finished(folder: Path) -> bool:
    """True if the newest checkpoint took all steps of its configuration."""
    path = newest(folder)
    if path is None:
        return False
    states = load(path)
    return states["Step"] >= states["Config"]["runner"]["total_steps"]

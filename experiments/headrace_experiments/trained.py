# SPDX-License-Identifier: Apache-2.0
"""What a pretraining leaves, and where: one run of fairseq-hydra-train, or a HuBERT's iterations below its stage."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from headrace_experiments.experiment import Pretraining
from headrace_pretraining.findings import Finding, findings_of_iterations, read_findings
from headrace_stages.stage import RunFolder


@dataclass(frozen=True)
class Trained:
    """checkpoint: the last one. log: of the fairseq-hydra-train that wrote it."""

    checkpoint: Path
    log: Path


def labels_of(folder: RunFolder, name: str, iteration: int) -> Path:
    """The labels that an iteration of HuBERT ``name`` was trained on."""
    return RunFolder(folder.stage(f"pretrain-{name}")).stage(f"labels-{iteration}")


def findings_of(folder: RunFolder, name: str, one: Pretraining) -> list[tuple[str, Finding]]:
    """What was found wrong while pretraining ``name`` ran, and in which of its iterations or in which run."""
    home = folder.stage(f"pretrain-{name}")
    if not one.plan:
        return [(name, each) for each in read_findings(home / "checkpoints")]
    found = findings_of_iterations(RunFolder(home), one.num_iterations)
    return [(f"{name}, iteration {number}", each) for number, each in found]


def trained(folder: RunFolder, name: str, one: Pretraining) -> Trained:
    """Of pretraining ``name`` in a run's folder."""
    home, log = folder.stage(f"pretrain-{name}"), folder.log(f"pretrain-{name}")
    if one.plan:
        last, inner = f"train-{len(one.read_plan().iterations)}", RunFolder(home)
        home, log = inner.stage(last), inner.log(last)
    return Trained(home / "checkpoints" / "checkpoint_last.pt", log)

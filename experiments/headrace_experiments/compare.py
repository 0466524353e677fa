# SPDX-License-Identifier: Apache-2.0
"""Each pretrained row against FBANK and against its untrained twin, on the same utterances; and what chance gives."""

from __future__ import annotations

from collections import Counter
from typing import Any

from headrace_downstream import score
from headrace_downstream.predictions import Prediction
from headrace_experiments.experiment import Experiment
from headrace_stages.stage import RunFolder

LOWER_IS_BETTER = {"asr": True, "emotion": False}


def verdict(task: str, difference: dict[str, Any]) -> str:
    """One word: wins (to the good, and the interval by speaker holds no zero), ahead (to the good), or behind."""
    value, interval = difference["value"], difference["interval_by_speaker"]
    better = value < 0 if LOWER_IS_BETTER[task] else value > 0
    if better and not interval["low"] <= 0 <= interval["high"]:
        return "wins"
    return "ahead" if better else "behind"


def comparisons(folder: RunFolder, experiment: Experiment, task: str) -> list[dict[str, Any]]:
    """Paired differences of the task's headline: pretrained rows minus FBANK, twins and what they stand beside."""
    plain = [name for name, row in experiment.rows.items() if row.upstream]
    found = []
    for name, row in experiment.rows.items():
        if not row.pretrained:
            continue
        named = [other for other in (row.twin, row.beside) if other and other not in plain]
        for other in [*plain, *named]:
            paired = score.compare(task, _said(folder, task, name), _said(folder, task, other))
            headline = paired["headline"]
            difference = paired["difference"][headline]
            found.append(
                {
                    "task": task,
                    "row": name,
                    "other": other,
                    "metric": headline,
                    "difference": difference,
                    "verdict": verdict(task, difference),
                }
            )
    return found


def chance(folder: RunFolder, experiment: Experiment, task: str) -> dict[str, Any]:
    """What an encoder that hears nothing can reach: silence for ASR, always the most frequent class for emotion."""
    references = [p.reference for p in _said(folder, task, next(iter(experiment.rows)))]
    if task == "asr":
        return {"how": "writes nothing", "wer": 100.0, "cer": 100.0}
    counts = Counter(references)
    label, number = max(sorted(counts.items()), key=lambda item: item[1])
    return {
        "how": f"always {label}",
        "accuracy": 100 * number / len(references),
        "unweighted_accuracy": 100 / len(counts),
    }


def _said(folder: RunFolder, task: str, row: str) -> list[Prediction]:
    expdir = folder.stage(f"{task}-{row}") / "exp"
    return score.load_predictions(expdir, score.read(expdir / score.FILE))

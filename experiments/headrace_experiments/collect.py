# SPDX-License-Identifier: Apache-2.0
"""All numbers of a run, from what its stages left, as one table of plain values: report.json."""

from __future__ import annotations

import json
import time
from typing import Any

import headrace
from headrace.reach import look_ahead
from headrace_downstream import score
from headrace_experiments import curve, description, machine
from headrace_experiments.compare import chance, comparisons
from headrace_experiments.corpora import Splits, describe_asr, describe_emotion, describe_manifest
from headrace_experiments.experiment import Experiment, Row
from headrace_experiments.plan import CERTIFICATE, INFORMATION, certificate_stage, information_stage
from headrace_experiments.report_file import FORMAT, portable
from headrace_experiments.trained import findings_of, trained
from headrace_pretraining.iterations import plan_path
from headrace_pretraining.shape import CONFIGS, shape_of
from headrace_stages import stamps
from headrace_stages.process import as_typed
from headrace_stages.stage import RunFolder


def collect(folder: RunFolder) -> dict[str, Any]:
    """Read a finished run.

    Raises:
        ValueError: the folder holds no run, or one whose stages are not done.
    """
    experiment, facts, stages = description.read(folder)
    names = [name for name in stages if name != "report"]
    done = {name: stamp for name in names if (stamp := stamps.read(folder, name)) and stamp.state == "done"}
    if missing := [name for name in names if name not in done]:
        raise ValueError(f"{folder.root}: {', '.join(missing)} not done; run the experiment first")
    scores = {task: _scores(folder, experiment, task) for task in experiment.tasks}
    return {
        "format": FORMAT,
        "experiment": experiment.name,
        "title": experiment.title,
        "notes": list(experiment.notes),
        "main": experiment.main,
        "budget_minutes": experiment.budget_minutes,
        "made": _made(folder, facts, done) | {"wall_seconds": stamps.wall_seconds(folder, stages)},
        "corpora": _corpora(folder, facts),
        "pretraining": {name: _pretraining(folder, experiment, name, done) for name in experiment.pretraining},
        "tasks": {name: _task(experiment, name) for name in experiment.tasks},
        "rows": [_row(folder, experiment, name, scores) for name in experiment.rows],
        "chance": {task: chance(folder, experiment, task) for task in experiment.tasks},
        "comparisons": [c for task in experiment.tasks for c in comparisons(folder, experiment, task)],
        "warnings": [*_warnings(scores, done), *_findings(folder, experiment)],
        "stages": [_stage(folder, name, stamp) for name, stamp in done.items()],
    }


def _scores(folder: RunFolder, experiment: Experiment, task: str) -> dict[str, dict[str, Any]]:
    return {name: score.read(folder.stage(f"{task}-{name}") / "exp" / score.FILE) for name in experiment.rows}


def _made(folder: RunFolder, facts: dict[str, Any], done: dict[str, stamps.Stamp]) -> dict[str, Any]:
    return {
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "command": facts["command"],
        "machine": machine.machine(),
        "versions": machine.versions(),
        "commits": sorted({stamp.commit for stamp in done.values()}),
        "jobs": facts["jobs"],
        "threads": facts["threads"],
        "seconds_of_stages": sum(stamp.seconds for stamp in done.values()),
        "processor_seconds_of_stages": sum(stamp.processor_seconds for stamp in done.values()),
    }


def _corpora(folder: RunFolder, facts: dict[str, Any]) -> dict[str, Any]:
    asr = describe_asr(folder.stage("manifest-asr"), Splits(**facts["splits"]))
    emotion = describe_emotion(folder.stage("manifest-emotion"))
    pretraining = describe_manifest(folder.stage("manifest-pretraining") / "train.tsv")
    return {
        "asr": {"name": facts["asr"], "splits": asr},
        "emotion": {"name": facts["ser"], **emotion},
        "pretraining": pretraining,
        "are_others": facts.get("other_corpora", False),
    }


def _pretraining(folder: RunFolder, experiment: Experiment, name: str, done: dict[str, stamps.Stamp]) -> dict[str, Any]:
    one, stamp = experiment.pretraining[name], done[f"pretrain-{name}"]
    points = curve.read(trained(folder, name, one).log)
    return {
        "config": portable(str(plan_path(one.plan) if one.plan else CONFIGS / f"{one.config}.yaml"), folder.root),
        "overrides": list(one.overrides),
        "seed": one.seed,
        "updates": one.all_updates,
        "seconds": stamp.seconds,
        "chance_bits": shape_of(one.configuration, one.overrides, CONFIGS).chance_bits,
        "curve": points,
        "labels": [_labels(folder, name, number) for number in range(1, one.num_iterations + 1)],
    }


def _labels(folder: RunFolder, name: str, iteration: int) -> dict[str, Any]:
    """What the labels of an iteration tell of characters: see headrace_labels/information.py."""
    found = json.loads((folder.stage(information_stage(name, iteration)) / INFORMATION).read_text(encoding="utf-8"))
    return {key: found[key] for key in ("features", "num_clusters", "share", "chance", "frames", "utterances")}


def _task(experiment: Experiment, name: str) -> dict[str, Any]:
    one = experiment.tasks[name]
    return {"config": f"downstream/{one.config}", "steps": one.steps, "seed": one.seed, "flags": list(one.flags)}


def _row(folder: RunFolder, experiment: Experiment, name: str, scores: dict[str, dict[str, Any]]) -> dict[str, Any]:
    row = experiment.rows[name]
    found = {task: _short(by_row[name]) for task, by_row in scores.items()}
    about = {
        "name": name,
        "title": row.title,
        "pretrained": row.pretrained,
        "twin": row.twin,
        "waits": row.waits,
        "upstream": row.upstream,
    }
    encoder = _encoder(folder, name, row)
    if encoder is not None and experiment.certified:
        encoder["certificate"] = _certificate(folder, name)
    return about | {"encoder": encoder, "scores": found}


def _certificate(folder: RunFolder, name: str) -> dict[str, Any]:
    """Of `headrace latency`: what frames wait for at most and on average, and the live speed of one thread."""
    found = json.loads((folder.stage(certificate_stage(name)) / CERTIFICATE).read_text(encoding="utf-8"))
    speed = next((each["real_time_factor"] for each in found["speeds"] if each["threads"] == 1), None)
    last = found["layers"][-1]
    return {
        "claimed_ms": last["claimed_ms"],
        "observed_ms": last["observed_ms"],
        "mean_ms": found["mean_ms"],
        "holds": found["holds"],
        "real_time_factor": speed,
    }


def _short(full: dict[str, Any]) -> dict[str, Any]:
    """A score.json without what the report says elsewhere."""
    keys = ("metrics", "num_utterances", "num_speakers", "mean_of_folds", "confusion")
    return {key: full[key] for key in keys if key in full} | {"layer_weights": full["run"]["layer_weights"]}


def _encoder(folder: RunFolder, name: str, row: Row) -> dict[str, Any] | None:
    """What a row's encoder is; None for one without weights."""
    if row.source is None:
        return None
    encoder = headrace.load(folder.stage(f"export-{name}") / "encoder")
    ahead = look_ahead(encoder.config.stack)
    frame_ms = 1000 * encoder.frontend.stride_samples / encoder.config.sample_rate
    return {
        "config": encoder.config.to_dict(),
        "parameters": sum(parameter.numel() for parameter in encoder.parameters()),
        "look_ahead_frames": ahead,
        "look_ahead_ms": None if ahead is None else ahead * frame_ms,
    }


def _warnings(scores: dict[str, dict[str, Any]], done: dict[str, stamps.Stamp]) -> list[str]:
    found: dict[str, None] = {}
    for task, by_row in scores.items():
        for full in by_row.values():
            found |= {f"{task}: {warning}": None for warning in full["warnings"]}
    if len({stamp.commit for stamp in done.values()}) > 1:
        found["the stages were made at different commits (see the list of stages)"] = None
    return list(found)


def _findings(folder: RunFolder, experiment: Experiment) -> list[str]:
    """What was found wrong with the pretrainings while they ran."""
    return [
        f"pretraining {where}: from update {found.update} on: {found.text}"
        for name, one in experiment.pretraining.items()
        for where, found in findings_of(folder, name, one)
    ]


def _stage(folder: RunFolder, name: str, stamp: stamps.Stamp) -> dict[str, Any]:
    about = {
        "name": name,
        "seconds": stamp.seconds,
        "processor_seconds": stamp.processor_seconds,
        "attempts": stamp.attempts,
        "commit": stamp.commit,
    }
    return about | {"command": portable(as_typed(tuple(stamp.command)), folder.root)}

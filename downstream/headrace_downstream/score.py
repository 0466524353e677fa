# SPDX-License-Identifier: Apache-2.0
"""From predictions to score.json: error rates with 95 % bootstrap intervals, of one run and of two compared."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jiwer
import numpy as np

from headrace_downstream import bootstrap, predictions
from headrace_downstream.bootstrap import Statistic
from headrace_downstream.files import write_whole
from headrace_downstream.predictions import Prediction

FILE = "score.json"  # of the task's headline split; beside it, score-SPLIT.json of every split that was evaluated
HEADLINE_SPLIT = {"asr": "test-clean", "emotion": "test"}
FORMAT = 1
FEW_SPEAKERS = 20  # below it, a bootstrap of speakers is known to give intervals that are too narrow


@dataclass(frozen=True)
class Metric:
    """A score: its name in score.json and in print, where its counts come from, and how it comes of their sums."""

    key: str
    title: str
    counts: str  # a key of _COUNTS
    statistic: Statistic


# The first of a task is its headline.
METRICS = {
    "asr": (
        Metric("wer", "WER", "words", bootstrap.error_rate),
        Metric("cer", "CER", "characters", bootstrap.error_rate),
    ),
    "emotion": (
        Metric("accuracy", "accuracy", "classes", bootstrap.accuracy),
        Metric("unweighted_accuracy", "unweighted accuracy", "classes", bootstrap.unweighted_accuracy),
    ),
}


def score(task: str, said: Sequence[Prediction], seed: int = 0) -> dict[str, Any]:
    """The part of score.json that follows from the predictions alone: metrics, intervals, counts, warnings,
    confusion matrix.
    """
    speakers = [p.speaker for p in said]
    utterances = [p.utterance for p in said]
    metrics = {}
    for metric in METRICS[task]:
        counts = _COUNTS[metric.counts](said)
        metrics[metric.key] = {
            "value": bootstrap.score(counts, metric.statistic),
            "unit": "%",
            "interval_by_speaker": asdict(bootstrap.interval(counts, speakers, metric.statistic, seed)),
            "interval_by_utterance": asdict(bootstrap.interval(counts, utterances, metric.statistic, seed)),
        }
    result = {
        "format": FORMAT,
        "task": task,
        "headline": METRICS[task][0].key,
        "metrics": metrics,
        "num_utterances": len(said),
        "num_speakers": len(set(speakers)),
        "warnings": _few_speakers(speakers),
        "bootstrap": {"resamples": bootstrap.RESAMPLES, "level": bootstrap.LEVEL, "seed": seed},
    }
    if task == "emotion":
        result["confusion"] = confusion(said)
    return result


def compare(task: str, first: Sequence[Prediction], second: Sequence[Prediction], seed: int = 0) -> dict[str, Any]:
    """First minus second, per metric, with the interval of the difference: both runs are scored on the same draws
    of speakers.

    Raises:
        ValueError: the two runs did not score the same utterances with the same references.
    """
    first, second = _sorted(first), _sorted(second)
    _check_same_utterances(first, second)
    classes = _classes([*first, *second])
    speakers, utterances = [p.speaker for p in first], [p.utterance for p in first]
    metrics = {}
    for metric in METRICS[task]:
        count = _COUNTS[metric.counts]
        both = np.concatenate([count(first, classes), count(second, classes)], axis=1)
        statistic = bootstrap.difference(metric.statistic)
        by_speaker = bootstrap.interval(both, speakers, statistic, seed)
        metrics[metric.key] = {
            "value": bootstrap.score(both, statistic),
            "unit": "points",
            "interval_by_speaker": asdict(by_speaker),
            "interval_by_utterance": asdict(bootstrap.interval(both, utterances, statistic, seed)),
            "holds_zero": by_speaker.holds(0.0),
        }
    return {
        "task": task,
        "headline": METRICS[task][0].key,
        "difference": metrics,
        "num_utterances": len(first),
        "num_speakers": len(set(speakers)),
        "warnings": _few_speakers(speakers),
    }


def confusion(said: Sequence[Prediction]) -> dict[str, Any]:
    """How often each class (row) was taken for each class (column)."""
    labels = _classes(said)
    counts = np.zeros((len(labels), len(labels)), dtype=int)
    for p in said:
        counts[labels.index(p.reference), labels.index(p.hypothesis)] += 1
    return {"labels": labels, "counts": counts.tolist()}


def file_of(split: str | None) -> str:
    """The name of a split's score; None for the headline's."""
    return FILE if split is None else f"score-{split}.json"


def write(path: Path, result: dict[str, Any]) -> None:
    """Write score.json; it appears whole."""
    write_whole(path, json.dumps(result, indent=2) + "\n")


def read(path: Path) -> dict[str, Any]:
    """Read score.json.

    Raises:
        ValueError: it is missing, or of a format that this version does not know.
    """
    if not path.is_file():
        others = sorted(other.stem.removeprefix("score-") for other in path.parent.glob("score-*.json"))
        advice = f"splits evaluated there: {', '.join(others)}, see --split" if others else "evaluate the run first"
        raise ValueError(f"{path}: no such file; {advice} (downstream/run.py -m train,evaluate -t SPLIT)")
    result = json.loads(path.read_text(encoding="utf-8"))
    if result.get("format") != FORMAT:
        raise ValueError(f"{path}: format {result.get('format')}, this version reads {FORMAT}; evaluate the run again")
    return result


def load_predictions(expdir: Path, result: dict[str, Any]) -> list[Prediction]:
    """The utterances that a score.json was computed of."""
    return [prediction for table in result["predictions"] for prediction in predictions.read(expdir / table)]


def summary(result: dict[str, Any]) -> list[str]:
    """A score.json for the terminal: what was scored, then `lines`."""
    run = result["run"]
    text = [
        " ".join(filter(None, (run["upstream"], run["upstream_ckpt"], result["task"], result["split"]))),
        *lines(result),
    ]
    if "mean_of_folds" in result:
        mean = result["mean_of_folds"]["accuracy"]
        text.insert(
            1,
            f"{'mean of folds':>20} {mean['value']:6.2f} %      accuracy, standard deviation {mean['deviation']:.2f}",
        )
    return text


def lines(result: dict[str, Any]) -> list[str]:
    """A score or a comparison for the terminal."""
    titles = {metric.key: metric.title for metric in METRICS[result["task"]]}
    table = result.get("metrics") or result["difference"]
    text = []
    for key, value in table.items():
        speaker, utterance = value["interval_by_speaker"], value["interval_by_utterance"]
        text.append(
            f"{titles[key]:>20} {value['value']:6.2f} {value['unit']:<6} "
            f"95 % by speaker [{speaker['low']:.2f}, {speaker['high']:.2f}], "
            f"by utterance [{utterance['low']:.2f}, {utterance['high']:.2f}]"
            + ("  (holds 0: no difference shown)" if value.get("holds_zero") else "")
        )
    text.append(f"{'':>20} {result['num_utterances']} utterances of {result['num_speakers']} speakers")
    return text + [f"warning: {warning}" for warning in result["warnings"]]


def _word_counts(said: Sequence[Prediction], classes: Sequence[str] = ()) -> np.ndarray:
    aligned = jiwer.process_words([p.reference for p in said], [p.hypothesis for p in said])
    return _error_counts(aligned)


def _character_counts(said: Sequence[Prediction], classes: Sequence[str] = ()) -> np.ndarray:
    aligned = jiwer.process_characters([p.reference for p in said], [p.hypothesis for p in said])
    return _error_counts(aligned)


def _error_counts(aligned: jiwer.WordOutput | jiwer.CharacterOutput) -> np.ndarray:
    """[utterances, 2]: substitutions + deletions + insertions, and the length of the reference."""
    rows = []
    for reference, chunks in zip(aligned.references, aligned.alignments, strict=True):
        wrong = (chunk for chunk in chunks if chunk.type != "equal")
        errors = sum(max(c.ref_end_idx - c.ref_start_idx, c.hyp_end_idx - c.hyp_start_idx) for c in wrong)
        rows.append((errors, len(reference)))
    return np.array(rows, dtype=float)


def _class_counts(said: Sequence[Prediction], classes: Sequence[str] = ()) -> np.ndarray:
    """[utterances, 2 * classes]: right in class k, then of class k."""
    labels = list(classes) or _classes(said)
    counts = np.zeros((len(said), 2 * len(labels)))
    for row, p in zip(counts, said, strict=True):
        k = labels.index(p.reference)
        row[k] = p.reference == p.hypothesis
        row[len(labels) + k] = 1
    return counts


_COUNTS = {"words": _word_counts, "characters": _character_counts, "classes": _class_counts}


def _classes(said: Sequence[Prediction]) -> list[str]:
    return sorted({p.reference for p in said} | {p.hypothesis for p in said})


def _few_speakers(speakers: Sequence[str]) -> list[str]:
    number = len(set(speakers))
    if number >= FEW_SPEAKERS:
        return []
    return [f"{number} speakers: with fewer than {FEW_SPEAKERS} the interval by speaker is too narrow to lean on"]


def _sorted(said: Sequence[Prediction]) -> list[Prediction]:
    return sorted(said, key=lambda p: p.utterance)


def _check_same_utterances(first: Sequence[Prediction], second: Sequence[Prediction]) -> None:
    one, other = {p.utterance: p.reference for p in first}, {p.utterance: p.reference for p in second}
    if one == other:
        return
    odd = sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))
    raise ValueError(
        f"the two runs cannot be paired: {len(odd)} utterances are in one of them only or have other references, "
        f"e.g. {odd[0]}; score both on the same split of the same corpus"
    )

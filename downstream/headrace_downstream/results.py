# SPDX-License-Identifier: Apache-2.0
"""What an evaluation leaves in its folder: predictions-SPLIT.tsv and score.json; and the average over emotion folds."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from headrace_downstream import checkpoints, predictions, score
from headrace_downstream.corpora import Corpus
from headrace_downstream.settings import content_digest


def keep(expdir: Path, checkpoint: Path, args: argparse.Namespace, config: dict[str, Any], corpus: Corpus) -> None:
    """Read what s3prl wrote when it evaluated a split, keep it as a table, score it, and print the score."""
    task, split = args.downstream, args.evaluate_split
    fold = fold_of(args, config)
    if task == "asr":
        with_lm = config["downstream_expert"]["datarc"].get("decoder_args", {}).get("decoder_type") == "kenlm"
        said = predictions.read_asr(expdir, split, with_lm)
    else:
        said = predictions.read_emotion(expdir, split, fold)
    table = f"predictions-{split}.tsv"
    predictions.write(expdir / table, said)
    result = score.score(task, said) | {
        "split": split,
        "predictions": [table],
        "run": _about(args, config, checkpoint),
    }
    if task == "emotion":
        result["fold"] = fold
    expected = corpus.num_utterances.get(split)
    if expected is not None and expected != len(said):
        result["warnings"].append(f"s3prl scored {len(said)} of {expected} utterances; set eval_batch_size to 1")
    _write(expdir, result)


def keep_folds(expdir: Path, folds: Sequence[str]) -> None:
    """Average the folds' accuracies, as SUPERB does, and score all their utterances together for the intervals."""
    tables = [f"{fold}/predictions-test.tsv" for fold in folds]
    said = [p for table in tables for p in predictions.read(expdir / table)]
    parts = {fold: score.read(expdir / fold / score.FILE) for fold in folds}
    result = score.score("emotion", said) | {
        "split": "test",
        "predictions": tables,
        "run": parts[folds[0]]["run"],
    }
    result["run"].pop("checkpoint")
    result["mean_of_folds"] = {
        key: _mean([part["metrics"][key]["value"] for part in parts.values()]) for key in result["metrics"]
    }
    result["folds"] = {fold: part["metrics"] for fold, part in parts.items()}
    _write(expdir, result)


def is_kept(expdir: Path) -> bool:
    """True if the folder's score is of its best checkpoint."""
    path = expdir / score.FILE
    return path.is_file() and path.stat().st_mtime >= checkpoints.best(expdir).stat().st_mtime


def fold_of(args: argparse.Namespace, config: dict[str, Any]) -> str:
    """The emotion fold that s3prl's expert takes: the configuration's, else -v, else the first."""
    return config["downstream_expert"]["datarc"].get("test_fold") or args.downstream_variant or "fold1"


def _write(expdir: Path, result: dict[str, Any]) -> None:
    score.write(expdir / score.FILE, result)
    print("\n".join(score.summary(result)))
    print(f"kept in {expdir / score.FILE}", flush=True)


def _about(args: argparse.Namespace, config: dict[str, Any], checkpoint: Path) -> dict[str, Any]:
    """What was scored, for the tables that are made of score.json."""
    states = checkpoints.load(checkpoint)
    return {
        "upstream": args.upstream,
        "upstream_ckpt": args.upstream_ckpt,
        "upstream_ckpt_content": content_digest(args.upstream_ckpt),
        "upstream_feature_normalize": args.upstream_feature_normalize,
        "upstream_trainable": args.upstream_trainable,
        "seed": args.seed,
        "checkpoint": {"file": checkpoint.name, "step": states["Step"]},
        "total_steps": config["runner"]["total_steps"],
        "layer_weights": _layer_weights(states),
        "config": config,
    }


def _layer_weights(states: dict[str, Any]) -> list[float] | None:
    """The learned softmax weights of the upstream's layers; None for an upstream of one layer."""
    weights = states["Featurizer"].get("weights")
    return None if weights is None else weights.softmax(dim=-1).tolist()


def _mean(values: list[float]) -> dict[str, float]:
    return {
        "value": statistics.fmean(values),
        "deviation": statistics.stdev(values) if len(values) > 1 else 0.0,
    }

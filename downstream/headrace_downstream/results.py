# SPDX-License-Identifier: Apache-2.0
"""What an evaluation leaves in its folder: predictions-SPLIT.tsv, score-SPLIT.json, and score.json for the headline
split; and the average over emotion folds.
"""

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
        said = predictions.read_asr(expdir, split, with_lm, corpus.speakers)
    else:
        said = predictions.read_emotion(expdir, split, fold, corpus.speakers)
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


def keep_folds(expdir: Path, folds: Sequence[str], split: str) -> None:
    """Average the folds' accuracies, as SUPERB does, and score all their utterances together for the intervals."""
    tables = [f"{fold}/predictions-{split}.tsv" for fold in folds]
    said = [p for table in tables for p in predictions.read(expdir / table)]
    parts = {fold: score.read(expdir / fold / score.file_of(split)) for fold in folds}
    result = score.score("emotion", said) | {
        "split": split,
        "predictions": tables,
        "run": parts[folds[0]]["run"],
    }
    result["run"].pop("checkpoint")
    result["mean_of_folds"] = {
        key: _mean([part["metrics"][key]["value"] for part in parts.values()]) for key in result["metrics"]
    }
    result["folds"] = {fold: part["metrics"] for fold, part in parts.items()}
    _write(expdir, result)


def is_kept(expdir: Path, split: str) -> bool:
    """True if the folder holds a score of the split, and of its best checkpoint."""
    path, best = expdir / score.file_of(split), checkpoints.best(expdir)
    if not path.is_file() or path.stat().st_mtime < best.stat().st_mtime:
        return False
    return score.read(path)["run"]["checkpoint"]["file"] == best.name


def fold_of(args: argparse.Namespace, config: dict[str, Any]) -> str:
    """The emotion fold that s3prl's expert takes: the configuration's, else -v, else the first."""
    return config["downstream_expert"]["datarc"].get("test_fold") or args.downstream_variant or "fold1"


def _write(expdir: Path, result: dict[str, Any]) -> None:
    split = result["split"]
    if split == score.HEADLINE_SPLIT[result["task"]]:
        score.write(expdir / score.FILE, result)
    score.write(expdir / score.file_of(split), result)  # last: it is what `is_kept` looks for
    print("\n".join(score.summary(result)))
    print(f"kept in {expdir / score.file_of(split)}", flush=True)


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
        "processes": states.get("WorldSize", 1),
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

# SPDX-License-Identifier: Apache-2.0
"""The training curve of a pretraining, from the log of its stage, over all attempts."""

from __future__ import annotations

from pathlib import Path

from headrace_stages.progress import training_row

COLUMNS = {
    "updates": "num_updates",
    "loss_bits": "loss",
    "contrastive_loss_bits": "loss_0",
    "accuracy": "accuracy",
    "code_perplexity": "code_perplexity",
    "masked_accuracy": "correct_m_0",
    "heard_accuracy": "correct_u_0",
}
"""Our names -> fairseq's. fairseq logs losses in bits. accuracy: the share of masked frames that a wav2vec 2.0 tells
from distractors; masked and heard: of frames whose cluster a HuBERT names."""


BELOW_CHANCE_BITS = 0.5
"""A contrastive loss this far below that of uniform guessing has left the plateau that every run begins on."""


def left_plateau(points: list[dict[str, float]], chance_bits: float) -> float | None:
    """Updates at the first point whose contrastive loss is BELOW_CHANCE_BITS under chance; None where none is."""
    for point in points:
        if point.get("contrastive_loss_bits", chance_bits) <= chance_bits - BELOW_CHANCE_BITS:
            return point["updates"]
    return None


def read(log: Path) -> list[dict[str, float]]:
    """Points of the curve by updates. After a kill some updates were made twice: the later ones count."""
    points: dict[float, dict[str, float]] = {}
    for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
        row = training_row(line)
        if row is None:
            continue
        point = {ours: row[theirs] for ours, theirs in COLUMNS.items() if theirs in row}
        points = {updates: old for updates, old in points.items() if updates < point["updates"]}
        points[point["updates"]] = point
    return list(points.values())

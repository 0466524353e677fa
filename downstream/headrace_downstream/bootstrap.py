# SPDX-License-Identifier: Apache-2.0
"""Percentile bootstrap of scores that are ratios of sums, and of the difference of two runs in such a score.

Utterances of one speaker resemble each other, so whole speakers are drawn (with replacement, as many as there are).
A score is a function of column sums: each utterance contributes a row of counts, each draw weighs the rows, and the
score is computed of the sums.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

Statistic = Callable[[np.ndarray], np.ndarray]  # column sums [R, K] -> scores [R]

RESAMPLES = 10_000
LEVEL = 0.95
_DRAWS_AT_ONCE = 500


@dataclass(frozen=True)
class Interval:
    """A 95 % interval of a score, in the score's unit."""

    low: float
    high: float

    def holds(self, value: float) -> bool:
        """True if the value lies inside, ends included."""
        return self.low <= value <= self.high


def error_rate(sums: np.ndarray) -> np.ndarray:
    """Per cent of (errors, reference words)."""
    return 100.0 * sums[:, 0] / np.maximum(sums[:, 1], 1)


def accuracy(sums: np.ndarray) -> np.ndarray:
    """Per cent right of (right per class ..., utterances per class ...)."""
    right, total = np.split(sums, 2, axis=1)
    return 100.0 * right.sum(axis=1) / np.maximum(total.sum(axis=1), 1)


def unweighted_accuracy(sums: np.ndarray) -> np.ndarray:
    """Mean over the classes of per cent right in the class; classes that a draw does not hold are left out of its
    mean.
    """
    right, total = np.split(sums, 2, axis=1)
    recall = np.where(total > 0, right / np.maximum(total, 1), 0.0)
    return 100.0 * recall.sum(axis=1) / np.maximum((total > 0).sum(axis=1), 1)


def difference(statistic: Statistic) -> Statistic:
    """The score of the first half of the columns minus that of the second half: both runs see the same draws."""

    def of_both(sums: np.ndarray) -> np.ndarray:
        first, second = np.split(sums, 2, axis=1)
        return statistic(first) - statistic(second)

    return of_both


def score(counts: np.ndarray, statistic: Statistic) -> float:
    """The score of all rows. counts: [utterances, K]."""
    return float(statistic(counts.sum(axis=0, keepdims=True))[0])


def interval(counts: np.ndarray, groups: Sequence[str], statistic: Statistic, seed: int = 0) -> Interval:
    """The 95 % interval of a score when whole groups are drawn.

    Args:
        counts: [utterances, K], what each utterance adds to the sums.
        groups: the group of each utterance: its speaker, or the utterance itself. Rows in another order give the
        same interval. statistic: the score of column sums. seed: of the draws.

    Raises:
        ValueError: no utterances, or not one group per utterance.
    """
    if len(counts) == 0 or len(counts) != len(groups):
        raise ValueError(
            f"groups: expected one per utterance and at least one, came {len(groups)} for {len(counts)} utterances"
        )
    names, index = np.unique(np.asarray(groups), return_inverse=True)
    sums = np.zeros((len(names), counts.shape[1]))
    np.add.at(sums, index, counts)
    generator = np.random.default_rng(seed)
    scores = []
    for begin in range(0, RESAMPLES, _DRAWS_AT_ONCE):
        drawn = generator.integers(len(names), size=(min(_DRAWS_AT_ONCE, RESAMPLES - begin), len(names)))
        weights = np.stack([np.bincount(draw, minlength=len(names)) for draw in drawn])
        scores.append(statistic(weights @ sums))
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(np.concatenate(scores), [tail, 1 - tail])
    return Interval(float(low), float(high))

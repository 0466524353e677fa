# SPDX-License-Identifier: Apache-2.0
"""Is a pretraining healthy? Watched while it runs, told once, with what usually causes it.

Nothing here stops a run: the loss of a sick one looks like that of a healthy one for hours, and people ask. What was
found stands in the log, in TensorBoard and in ``health.json`` beside the checkpoints. The thresholds are shown on
healthy and on sabotaged runs in tests/pretrain/test_health.py.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headrace_pretraining.findings import FILE, Finding, read_findings, write_findings

logger = logging.getLogger("headrace_fairseq.health")

WINDOW = 50  # updates that a number is averaged over
PATIENCE = 1500  # updates after which a run should have left chance
NEAR_CHANCE = 1.3  # times chance: what guessing reaches by luck and by the commonest class
TOO_GOOD = 0.98  # accuracy
FLOOR = 1.5  # codes of each codebook in use, at least
DEAD_SHARE = 0.25  # of the clusters, without one frame


@dataclass(frozen=True)
class Facts:
    """What a run's numbers are held against.

    chance: the masked accuracy of guessing. groups: codebooks of wav2vec 2.0's quantizer, 0 for HuBERT.
    """

    chance: float
    groups: int = 0


def mean_of(rows: deque[Mapping[str, float]], key: str) -> float:
    """Over the rows that have it; NaN where none has."""
    found = [float(row[key]) for row in rows if key in row]
    return sum(found) / len(found) if found else math.nan


# ---- rules: each takes the last rows, the update and the facts, and gives a text or None ----

Rule = Callable[[deque[Mapping[str, float]], int, Facts], str | None]


def _not_finite(rows: deque[Mapping[str, float]], update: int, facts: Facts) -> str | None:
    bad = next((name for name, value in rows[-1].items() if not math.isfinite(value) and name != "loss_scale"), None)
    return None if bad is None else not_finite(bad)


def not_finite(what: str) -> str:
    """A text for a number that is NaN or infinite."""
    return (
        f"{what} is not finite. Usual causes: fp16 overflow (common.bf16=true common.fp16=false), a learning rate that "
        "is too high, optimization.clip_norm=0."
    )


def _collapsed_codes(rows: deque[Mapping[str, float]], update: int, facts: Facts) -> str | None:
    perplexity = mean_of(rows, "code_perplexity")
    if not facts.groups or not perplexity <= FLOOR * facts.groups:
        return None
    return (
        f"code_perplexity is {perplexity:.1f}, of {facts.groups} at the least: the codebook has collapsed, and a loss "
        "near 0 and an accuracy near 1 mean nothing. Usual causes: a diversity weight that is too small "
        "(criterion.loss_weights[0]; 0.5 to 1 for small models), model.latent_temp that falls too fast, a learning "
        "rate that is too high. It does not come back: begin again."
    )


def _too_good(rows: deque[Mapping[str, float]], update: int, facts: Facts) -> str | None:
    accuracy = _masked_accuracy(rows)
    if not accuracy >= TOO_GOOD:
        return None
    return (
        f"masked accuracy is {accuracy:.3f}: no model knows so well what it cannot hear. Usual causes: a collapsed "
        "codebook, labels that are all the same or all unknown (dict.km.txt), masks that are not applied."
    )


def _at_chance(rows: deque[Mapping[str, float]], update: int, facts: Facts) -> str | None:
    accuracy = _masked_accuracy(rows)
    if update < PATIENCE or not accuracy <= NEAR_CHANCE * facts.chance:
        return None
    return (
        f"masked accuracy is {accuracy:.3f} after {update} updates, and guessing reaches {facts.chance:.3f}: nothing "
        "is learned yet. Usual causes: a learning rate that is too high or a warm-up that is too short, labels of "
        "another corpus or in another order; a small wav2vec 2.0 may need 2000 updates."
    )


def _masks_leak(rows: deque[Mapping[str, float]], update: int, facts: Facts) -> str | None:
    masked, unmasked = mean_of(rows, "correct_m_0"), mean_of(rows, "correct_u_0")
    if update < PATIENCE // 3 or not masked > 1.05 * unmasked + 0.02:
        return None
    return (
        f"masked frames are told better ({masked:.3f}) than frames that are heard ({unmasked:.3f}): the masked ones "
        "are not hidden. Usual causes: masks that are not applied, another forward in between."
    )


RULES: dict[str, Rule] = {
    "not finite": _not_finite,
    "collapsed codes": _collapsed_codes,
    "too good": _too_good,
    "at chance": _at_chance,
    "masks leak": _masks_leak,
}


def _masked_accuracy(rows: deque[Mapping[str, float]]) -> float:
    masked = mean_of(rows, "correct_m_0")
    return mean_of(rows, "accuracy") if math.isnan(masked) else masked


class Health:
    """Takes what fairseq logs at each update, and tells each finding once.

    Args:
        facts: of the run.
        folder: where health.json is kept; None for nowhere.
        tell: what else is done with a finding.
    """

    def __init__(self, facts: Facts, folder: Path | None, tell: Callable[[Finding], object] = lambda _: None) -> None:
        self.facts, self.folder, self.tell = facts, folder, tell
        self.findings: list[Finding] = []
        self._rows: deque[Mapping[str, float]] = deque(maxlen=WINDOW)

    def begin(self, num_updates: int) -> None:
        """Know what was found before, where a run goes on; what another run in the same folder found is forgotten."""
        if self.folder is None:
            return
        self.findings = [one for one in read_findings(self.folder) if 0 < num_updates >= one.update]
        if not self.findings:
            (self.folder / FILE).unlink(missing_ok=True)

    def update(self, row: Mapping[str, Any], num_updates: int) -> None:
        """Look at one update."""
        self._rows.append({name: float(value) for name, value in row.items() if _is_number(value)})
        known = {finding.name for finding in self.findings}
        for name, rule in RULES.items():
            if name in known or (len(self._rows) < WINDOW and name != "not finite"):
                continue
            text = rule(self._rows, num_updates, self.facts)
            if text is not None:
                self.add(Finding(name, num_updates, text))

    def add(self, finding: Finding) -> None:
        """Tell and keep a finding. A disk that is full does not end the run here."""
        self.findings.append(finding)
        logger.warning(f"update {finding.update}: {finding.text}")
        try:
            self.tell(finding)
            if self.folder is not None:
                write_findings(self.folder, self.findings)
        except OSError as why:
            logger.warning(f"this finding stands in no file: {why}")


def dead_clusters(counts: list[int]) -> str | None:
    """A text where many clusters have no frame. counts: frames of each cluster, in the training labels."""
    dead = sum(count == 0 for count in counts)
    if not counts or dead <= DEAD_SHARE * len(counts):
        return None
    return (
        f"{dead} of {len(counts)} clusters label no frame: the model's classes are wasted on them. Usual causes: more "
        "clusters than the speech has sounds, k-means learned on other speech, a dictionary of another k-means."
    )


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True

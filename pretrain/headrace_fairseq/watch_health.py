# SPDX-License-Identifier: Apache-2.0
"""Lets ``health.py`` look at every update of fairseq's trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fairseq.distributed.utils import get_global_rank
from tensorboardX import SummaryWriter

from headrace_fairseq import labels
from headrace_fairseq.health import Facts, Health, dead_clusters, not_finite
from headrace_pretraining.findings import Finding

WATCHED = ("headrace_wav2vec2", "headrace_hubert")


def watch_health(trainer: Any) -> None:
    """From now on, each update of a pretraining is looked at by the first process. A second call changes nothing."""
    cfg, update = trainer.cfg, trainer.get_num_updates()
    if get_global_rank() > 0 or hasattr(trainer, "health") or cfg.model._name not in WATCHED:
        return
    counts = labels.count(cfg.task, cfg.dataset.train_subset) if cfg.model._name == "headrace_hubert" else []
    health = trainer.health = Health(facts_of(cfg.model, counts), Path(cfg.checkpoint.save_dir), _tell_tensorboard(cfg))
    health.begin(update)
    if (text := dead_clusters(counts)) and update == 0:
        health.add(Finding("dead clusters", update, text))
    step = trainer.train_step

    def look_after_step(*args: Any, **kwargs: Any) -> Any:
        try:
            logged = step(*args, **kwargs)
        except FloatingPointError:  # fairseq's end of a run whose gradients are not finite
            health.add(Finding("not finite", trainer.get_num_updates(), not_finite("a gradient")))
            raise
        if logged:
            health.update(logged, trainer.get_num_updates())
        return logged

    trainer.train_step = look_after_step


def facts_of(model: Any, counts: list[int]) -> Facts:
    """What a run's numbers are held against: of a HuBERT the frames of each cluster, of a wav2vec 2.0 its negatives."""
    if counts:
        return Facts(chance=max(counts) / max(1, sum(counts)))
    candidates = 1 + model.num_negatives + model.cross_sample_negatives
    return Facts(1 / candidates, model.latent_groups if model.quantize_targets else 0)


def _tell_tensorboard(cfg: Any) -> Any:
    """Puts a finding among the texts of the run's TensorBoard, where it has one."""
    if cfg.common.tensorboard_logdir is None:
        return lambda _: None

    def tell(finding: Finding) -> None:
        with SummaryWriter(str(Path(cfg.common.tensorboard_logdir) / "health")) as writer:
            writer.add_text(f"health/{finding.name}", finding.text, finding.update)

    return tell

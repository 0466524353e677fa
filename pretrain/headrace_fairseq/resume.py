# SPDX-License-Identifier: Apache-2.0
"""What a run starts from, and whether it may: an earlier run of other data or settings is not gone on with in silence.

fairseq loads whatever lies in the run's folder and compares the shapes of weights only.
"""

from __future__ import annotations

import logging
import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from fairseq.file_io import PathManager
from omegaconf import DictConfig, OmegaConf

from headrace_fairseq import labels
from headrace_fairseq.manifest import digest_rows

logger = logging.getLogger(__name__)

OWN = "checkpoint_last.pt"
NOTE = "headrace_fairseq"  # where a checkpoint's extra_state keeps the digests of its manifest and its labels

# The sections that make an experiment what it is, and what may change in them all the same: how long it runs, what it
# logs, what is told apart below (data, batches), and fairseq's second copies of a value.
FREE = {
    "task": {"data", "label_dir", "post_save_script", "text_compression_level", "tpu", "seed"},
    "optimization": {"max_epoch", "max_update", "stop_time_hours", "stop_min_lr", "debug_param_names", "update_freq"},
    "criterion": {"log_keys"},
    "model": {"max_update", "log_interval", "seed", "fp16", "sample_rate", "normalize_waveform", "label_rate"},
    "optimizer": {"lr", "tpu"},
    "lr_scheduler": {"lr", "total_num_update"},
}
# What makes it so in the other sections.
ALSO = (
    "common.seed",
    "common.fp16",
    "common.bf16",
    "common.memory_efficient_fp16",
    "common.memory_efficient_bf16",
    "common.amp",
    "dataset.train_subset",
)
# The same experiment on other machines may well have others; it then ends elsewhere than one that nobody disturbed.
BATCHES = (
    "distributed_training.distributed_world_size",
    "optimization.update_freq",
    "dataset.max_tokens",
    "dataset.batch_size",
    "dataset.required_batch_size_multiple",
)
# fairseq's options that leave a part of the checkpoint unread, and the beginnings of what may differ then.
LIFTS = {
    "reset_dataloader": ("task.", "rows of ", "labels of ", "dataset.", "common.seed"),
    "reset_optimizer": ("common.fp16", "common.bf16", "common.memory", "common.amp")
    + ("optimization.", "optimizer.", "criterion.", "lr_scheduler."),
    "reset_lr_scheduler": ("optimization.lr", "lr_scheduler."),
    "optimizer_overrides": ("optimization.lr", "optimizer."),
}


def check(cfg: DictConfig, suffix: str) -> None:
    """Check what a run with configuration ``cfg`` will load; ``suffix`` as in fairseq's checkpoint names.

    Raises:
        ValueError: the run's own last checkpoint cannot be read or is another experiment's, or a checkpoint that an
            option names does not exist.
    """
    option, path = _source(cfg.checkpoint, suffix)
    if path is None or PathManager.path_requires_pathmanager(path):
        return
    if not Path(path).exists():
        raise ValueError(f"checkpoint.{option}={path} does not exist: give the checkpoint_last.pt to start from.")
    if option == "finetune_from_model":
        return
    here = OmegaConf.to_container(cfg, resolve=True, enum_to_str=True)
    try:
        found = list(_differences(*_read(path), here))
    except ValueError:
        if option is not None:  # fairseq reads older formats too
            return
        raise
    problem = _why_not(path, [one for one in found if one[0] not in BATCHES], here["checkpoint"])
    if problem and option is None:
        raise ValueError(problem)
    if problem:  # somebody has named this file
        logger.warning(problem)
    if batches := [f"{key} was {was}, is {now}" for key, was, now in found if key in BATCHES]:
        logger.warning(f"{path} goes on with other batches than before: {'; '.join(batches)}.")


def note(cfg: DictConfig) -> dict[str, Any]:
    """For a checkpoint's ``extra_state``: which corpus and which labels it learned from, wherever they lie."""
    task, split = cfg.task, cfg.dataset.train_subset
    if not task.get("data"):
        return {}
    digests = {"train_rows": digest_rows(task.data, split)}
    if "label_dir" in task:
        digests["train_labels"] = labels.digest(task, split)
    return {NOTE: digests}


def _source(cfg: DictConfig, suffix: str) -> tuple[str | None, str | None]:
    """The file that fairseq will load, and the option that names it (None: the run's own); as ``load_checkpoint``."""
    if cfg.restore_file != OWN:
        return "restore_file", cfg.restore_file.replace(".pt", f"{suffix}.pt")
    own = str(Path(cfg.save_dir) / OWN.replace(".pt", f"{suffix}.pt"))
    if PathManager.exists(own):
        return None, own
    named = [option for option in ("continue_once", "finetune_from_model") if cfg.get(option) is not None]
    return (named[0], cfg[named[0]]) if named else (None, None)


def _why_not(path: str, found: list[tuple[str, Any, Any]], options: Mapping[str, Any]) -> str | None:
    """Why the checkpoint is another experiment's, in one line; None when it is this one's."""
    reset = {option for option in LIFTS if options.get(option) not in (False, None, "{}")}
    lifted = tuple(start for option in reset for start in LIFTS[option])
    real = [one for one in found if not one[0].startswith(lifted)]
    if not real or reset >= {"reset_dataloader", "reset_optimizer"}:  # with both, the weights alone are taken
        return None
    key, was, now = real[0]
    more = f" ({len(real) - 1} more differ)" if len(real) > 1 else ""
    flag = next((f" or checkpoint.{o}=true" for o in LIFTS if o.startswith("reset") and key.startswith(LIFTS[o])), "")
    return (
        f"{path} is another experiment's: {key} is {was} there, {now} here{more}. To go on with it give the same value"
        f"{flag}; to begin another run give another hydra.run.dir (and checkpoint.finetune_from_model={path} to start "
        f"from these weights), or delete {Path(path).parent}."
    )


def _read(path: str) -> tuple[Mapping[str, Any], Mapping[str, str | None]]:
    """A checkpoint's configuration and its ``note``; the tensors stay on disk."""
    try:
        checkpoint = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise ValueError(
            f"{path} cannot be read ({str(error).splitlines()[0]}): copy another checkpoint of its folder over it to "
            "go on from there, or delete it."
        ) from error
    return checkpoint.get("cfg") or {}, checkpoint.get("extra_state", {}).get(NOTE, {})


def _differences(
    there: Mapping[str, Any], noted: Mapping[str, str | None], here: Mapping[str, Any]
) -> Iterator[tuple[str, Any, Any]]:
    """(key, value there, value here), those first that people set. A key that one side lacks is of another version."""
    if there.get("task"):
        yield from _other_data(there, noted.get("train_rows"), here)
        yield from _other_labels(noted.get("train_labels"), here)
    first = (there.get("checkpoint") or {}).get("finetune_from_model"), here["checkpoint"]["finetune_from_model"]
    if there and first[1] not in (None, first[0]):  # fairseq would not look at it any more
        yield "checkpoint.finetune_from_model", *first
    sections = [f"{part}.{name}" for part, free in FREE.items() for name in here.get(part) or {} if name not in free]
    for key in (*ALSO, *BATCHES, *sections):
        section, _, name = key.partition(".")
        was, now = there.get(section) or {}, here.get(section) or {}
        if name in was and name in now and was[name] != now[name]:
            yield key, was[name], now[name]


def _other_data(
    there: Mapping[str, Any], train_rows: str | None, here: Mapping[str, Any]
) -> Iterator[tuple[str, Any, Any]]:
    """Another corpus; the same rows in another folder, or under another root, are the same one."""
    was, now, split = there["task"].get("data"), here["task"].get("data"), here["dataset"]["train_subset"]
    rows = digest_rows(now, split) if now else None
    train_rows = train_rows or (digest_rows(was, split) if was and was != now else None)  # None: an older checkpoint
    if rows and train_rows:
        if rows != train_rows:
            here_too = f"rows of {now}/{split}.tsv", f"sha256 {train_rows[:8]}", f"sha256 {rows[:8]}"
            yield ("task.data", was, now) if was != now else here_too
    elif was != now:
        yield "task.data", was, now


def _other_labels(was: str | None, here: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Other labels in files of the same or another name."""
    task = OmegaConf.create(here["task"])
    now = labels.digest(task, here["dataset"]["train_subset"]) if "label_dir" in task else None
    if was and now and was != now:
        yield f"labels of {task.label_dir or task.data}", f"sha256 {was[:8]}", f"sha256 {now[:8]}"

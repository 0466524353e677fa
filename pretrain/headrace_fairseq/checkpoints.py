# SPDX-License-Identifier: Apache-2.0
"""Checkpoint files appear whole or not at all, and are not gone on from by mistake: see ``resume.py``.

fairseq writes the first checkpoint of a save beside its name and renames it, but copies it plainly to
``checkpoint_best.pt`` and ``checkpoint_last.pt``: a kill in mid-copy leaves half a file under the name that the next
start reads. It also writes on after a failed write, up to three times into the same file, and keeps the wreck.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import torch
from fairseq import checkpoint_utils
from fairseq.data import Dictionary
from fairseq.distributed.utils import get_global_rank
from fairseq.file_io import PathManager

from headrace_fairseq import mel_statistics, resume
from headrace_fairseq.data import watch_trainer
from headrace_fairseq.errors import one_clear_line
from headrace_fairseq.watch_health import watch_health


def write_whole(path: str, write: Callable[[BinaryIO], object]) -> None:
    """Let ``write`` fill a file beside ``path``, then rename it; on any failure ``path`` stays as it was.

    Raises:
        OSError: naming the file, the reason and what to do.
    """
    beside = Path(f"{path}.tmp")
    try:
        with beside.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    # torch.save reports a failed write of its file object as a RuntimeError.
    except (OSError, RuntimeError) as error:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise OSError(f"{path} was not saved: {_reason(error)}. {_last_whole(path)}") from error


def save(obj: Any, filename: str, async_write: bool = False) -> None:
    """In place of fairseq's ``torch_persistent_save``."""
    if async_write or PathManager.path_requires_pathmanager(filename):
        _FAIRSEQ_SAVE(obj, filename, async_write=async_write)
        return
    with one_clear_line():
        write_whole(filename, lambda file: torch.save(obj, file))


def copy(src_path: str, dst_path: str, overwrite: bool = False) -> bool:
    """In place of fairseq's ``PathManager.copy``."""
    if PathManager.path_requires_pathmanager(src_path) or PathManager.path_requires_pathmanager(dst_path):
        return bool(_FAIRSEQ_COPY(src_path, dst_path, overwrite=overwrite))
    if not overwrite and Path(dst_path).exists():
        return False
    with one_clear_line(), Path(src_path).open("rb") as source:
        write_whole(dst_path, lambda file: shutil.copyfileobj(source, file, length=2**20))
    return True


def load(cfg: Any, trainer: Any, **passthrough_args: Any) -> Any:
    """In place of fairseq's ``load_checkpoint``: what is loaded is checked first, and later saves note their corpus."""
    with one_clear_line():
        if get_global_rank() == 0:
            resume.check(trainer.cfg, trainer.checkpoint_suffix)
        corpus = resume.note(trainer.cfg)
        trainer.task.get_checkpoint_dict = lambda: corpus  # what fairseq adds to a checkpoint's extra_state
        watch_trainer(trainer)
        loaded = _FAIRSEQ_LOAD(cfg, trainer, **passthrough_args)
        if loaded[0] is None:  # weights go with the statistics that they were trained on
            mel_statistics.measure_for(trainer)
        watch_health(trainer)  # behind it: labels have been checked
        return loaded


def install() -> None:
    """Give fairseq these functions for its own, and let torch read what HuBERT's checkpoints carry besides tensors."""
    torch.serialization.add_safe_globals([Dictionary])
    checkpoint_utils.load_checkpoint = load
    checkpoint_utils.torch_persistent_save = save
    PathManager.copy = staticmethod(copy)


_FAIRSEQ_LOAD = checkpoint_utils.load_checkpoint
_FAIRSEQ_SAVE = checkpoint_utils.torch_persistent_save
_FAIRSEQ_COPY = PathManager.copy


def _reason(error: Exception) -> str:
    cause = error
    while not isinstance(cause, OSError) and (cause.__cause__ or cause.__context__) is not None:
        cause = cause.__cause__ or cause.__context__  # type: ignore[assignment]
    return cause.strerror or str(cause) if isinstance(cause, OSError) else str(error).splitlines()[0]


def _last_whole(path: str) -> str:
    folder = Path(path).parent
    free_gb = shutil.disk_usage(folder).free / 1e9
    last = folder / "checkpoint_last.pt"
    state = f"{last} is whole; " if last.exists() else ""
    return f"{state}{free_gb:.2f} GB are free there. Make room and give the same command again to go on."

# SPDX-License-Identifier: Apache-2.0
"""Files and folders that appear whole or not at all, and never in place of what somebody else wrote."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import save_file

# Of linux/fs.h and fcntl.h.
RENAME_EXCHANGE = 2
AT_FDCWD = -100

PYTHONS_CACHE = "__pycache__"  # torch.hub leaves it where it ran a hubconf.py


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A path beside ``path`` at which the block makes a file or a folder; it then takes the place of ``path``.

    What was written is on the disk (fsync) before it gets its name. An error in the block or a kill during it leaves
    ``path`` as it was; a kill may also leave a ``.NAME.partial-...`` beside it, which nothing reads. A file, and a
    folder where there was none, takes its place in one step. So does a folder that replaces one, where the file system
    can exchange two names (Linux: ext4, xfs, btrfs, tmpfs). Elsewhere that is two renames: if the second fails, the old
    folder is put back; a kill between them leaves it whole as ``.NAME.old-...``, to be renamed by hand.

    Raises:
        OSError: the disk is full or not writable. What stood at ``path`` before stays, but where the last step alone
            failed: the flush of the folder around it.
    """
    path = path.resolve()  # what a link points to is replaced, not the link
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{path.name}.partial-", dir=path.parent))
    try:
        partial = beside / path.name
        yield partial
        _flush(partial)
        _take_place(partial, path)
        _flush_one(path.parent)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _take_place(partial: Path, path: Path) -> None:
    """Rename; a folder that is in the way ends up at ``partial``, or is gone."""
    if not (partial.is_dir() and path.is_dir()):
        os.replace(partial, path)
    elif not _exchange(partial, path):
        old = path.with_name(f".{path.name}.old-{os.getpid()}")
        os.replace(path, old)
        try:
            os.replace(partial, path)
        except BaseException:
            os.replace(old, path)
            raise
        shutil.rmtree(old, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two names in one step; False where the system or the file system cannot."""
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None)
    if renameat2 is None:
        return False
    return renameat2(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE) == 0


def _flush(path: Path) -> None:
    """A file, or a folder and all in it, to the disk."""
    for inner in path.iterdir() if path.is_dir() else ():
        _flush(inner)
    _flush_one(path)


def _flush_one(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_replaceable(folder: Path, names: Collection[str], is_ours: Callable[[dict[str, Any]], bool]) -> None:
    """A folder may be written here: nothing is there, or an empty folder, or one that we wrote and nobody added to.

    Args:
        names: the files of such a folder.
        is_ours: whether the content of a config.json is that of such a folder.

    Raises:
        ValueError: something else is there, and would be lost.
    """
    if not folder.exists():
        return
    advice = "expected a new or empty folder, or an earlier one of the same kind to replace; choose another name"
    if not folder.is_dir():
        raise ValueError(f"{folder} is a file: {advice}.")
    found = sorted(path.name for path in folder.iterdir())
    foreign = [name for name in found if name not in names and name != PYTHONS_CACHE]
    if foreign:
        shown = ", ".join(foreign[:3]) + (f" and {len(foreign) - 3} more" if len(foreign) > 3 else "")
        raise ValueError(f"{folder} holds {shown}, which would be lost: {advice}, or move that away.")
    if found and not is_ours(_read_config(folder / "config.json")):
        raise ValueError(f"{folder} holds {', '.join(found)}, not written by headrace: {advice}, or move that away.")


def _read_config(path: Path) -> dict[str, Any]:
    """Its content; empty where there is none that could be read."""
    values = None
    with contextlib.suppress(FileNotFoundError, IsADirectoryError, ValueError):  # ValueError: no text, no JSON
        values = json.loads(path.read_text())
    return values if isinstance(values, dict) else {}


def write_tensors(state: Mapping[str, torch.Tensor], path: Path) -> None:
    """A state dict as a safetensors file.

    Raises:
        OSError: the disk is full or not writable.
    """
    try:
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, path, metadata={"format": "pt"})
    except safetensors.SafetensorError as error:
        raise OSError(f"{path.name} could not be written: {error}") from None

# SPDX-License-Identifier: Apache-2.0
"""Files that appear whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def appears_whole(path: Path) -> Iterator[Path]:
    """Yield a path beside to write to; it takes the file's place when the block has ended well.

    A full disk, an error in the block or a kill leaves the old file as it was. The name beside is hidden, ends in
    `.part` and holds the process's number, so that several processes may write one file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield beside
        with beside.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def write_whole(path: Path, text: str) -> None:
    """Write a text file that appears whole."""
    with appears_whole(path) as beside:
        beside.write_text(text, encoding="utf-8")


def remove_halves(folder: Path, pattern: str) -> None:
    """Remove what killed runs left half-written of files that match the pattern; nobody may be writing such."""
    for half in folder.glob(f".{pattern}.*.part"):
        half.unlink()

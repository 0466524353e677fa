# SPDX-License-Identifier: Apache-2.0
"""Files that appear whole or not at all, and fairseq's two-column manifest."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path


def write_whole(path: Path, text: str) -> None:
    """Write UTF-8 text beside `path`, then rename; a full disk or a kill leaves the old file as it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with beside.open("w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def place_folder(beside: Path, folder: Path) -> None:
    """Rename a finished folder to where nothing is yet, once the disk holds every file in it."""
    for path in beside.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside.replace(folder)


def write_manifest(path: Path, root: Path, rows: Iterable[tuple[str, int]]) -> None:
    """Write a manifest: the root, then `path relative to it<TAB>number of samples`, in the given order."""
    lines = [f"{name}\t{num_samples}\n" for name, num_samples in rows]
    write_whole(path, f"{root}\n{''.join(lines)}")


def read_manifest(path: Path) -> tuple[Path, list[tuple[str, int]]]:
    """Read a manifest back, strictly.

    Returns:
        the root, and (path relative to it, number of samples) per row.

    Raises:
        ValueError: naming file and line: a row without two columns, a count that is no positive number.
    """
    lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    if not lines[0].strip():
        raise ValueError(f"{path}: line 1 holds no root folder; write the manifest again")
    rows = []
    for number, line in enumerate(lines[1:], start=2):
        columns = line.split("\t")
        if len(columns) != 2 or not columns[1].isdecimal() or int(columns[1]) == 0:
            raise ValueError(f"{path}: line {number}: expected 'path<TAB>number of samples', got {line!r}")
        rows.append((columns[0], int(columns[1])))
    return Path(lines[0]), rows


def name_fault(name: str) -> str | None:
    """Say why fairseq could not read `name` back from a manifest; None when it can."""
    if any(character in name for character in "\t\n\r"):
        return "the name holds a tab or a line end"
    if name[:1].isspace():
        return "the name starts with white space, which fairseq strips"
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return "the name is not UTF-8"
    return None


def corpus_root(path: Path) -> Path:
    """Return the real path of an existing folder that the first line of a manifest can hold."""
    if not path.is_dir():
        raise ValueError(f"{path} is no folder; expected the root of a corpus")
    root = path.resolve()
    fault = name_fault(str(root))
    if fault:
        raise ValueError(f"{str(root)!r} cannot stand in a manifest: {fault}; rename the folder")
    return root


def find_files(root: Path, extensions: Iterable[str]) -> list[str]:
    """List files below `root` with one of the extensions, as sorted relative POSIX paths.

    Like fairseq's recursive glob it follows links to folders and skips hidden names (among them the `._*`
    files that macOS leaves in archives); unlike it, a link that leads back up is entered once only.
    """
    endings = tuple(f".{extension.lstrip('.')}" for extension in extensions)
    found: list[str] = []
    seen: set[str] = set()
    for folder, subfolders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            subfolders.clear()
            continue
        seen.add(real)
        # Sorted, so that of two links to one folder always the same is the one entered.
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        relative = os.path.relpath(folder, root)
        found += [
            name if relative == "." else f"{relative}/{name}"
            for name in names
            if name.endswith(endings) and not name.startswith(".")
        ]
    return sorted(found)

# SPDX-License-Identifier: Apache-2.0
"""Short texts that change when a file, a folder or a list of values does."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

WHOLE_BYTES = 64 << 20
"""Larger files are told by size and time of change: reading gigabytes at each start would cost more than it finds."""


def of_values(values: Any) -> str:
    """Fingerprint of anything that JSON can hold."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def of_path(path: Path) -> str | None:
    """Fingerprint of a file's content, or of the names and sizes below a folder; None where nothing is."""
    if path.is_dir():
        files = _files_below(path)
        return of_values(files) if files else None
    if not path.is_file() or path.stat().st_size == 0:
        return None
    return _of_file(path)


def _of_file(path: Path) -> str:
    status = path.stat()
    if status.st_size > WHOLE_BYTES:
        return of_values([status.st_size, status.st_mtime_ns])
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def _files_below(folder: Path) -> list[tuple[str, int]]:
    """Sorted (relative path, bytes) of all files, through links to folders too."""
    found = []
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders.sort()
        for name in names:
            path = Path(parent, name)
            if path.is_file():
                found.append((str(path.relative_to(folder)), path.stat().st_size))
    return sorted(found)

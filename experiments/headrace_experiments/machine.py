# SPDX-License-Identifier: Apache-2.0
"""What a run was made on and with: machine, versions, commit."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

PACKAGES = ("torch", "fairseq-fixed", "s3prl")


def num_cores() -> int:
    """Cores that this process may use; containers may allow fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine() -> str:
    """Processor and cores, in words."""
    names = [line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    return f"{name}, {num_cores()} cores"


def has_gpu() -> bool:
    """Whether torch sees a GPU."""
    import torch  # not for runs that do not ask: it takes seconds

    return torch.cuda.is_available()


def versions() -> str:
    """Versions of what does the work."""
    return ", ".join([f"Python {platform.python_version()}", *(f"{name} {_version(name)}" for name in PACKAGES)])


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "(not installed)"


def commit(checkout: Path) -> str:
    """The checkout's commit, with + where tracked files differ from it; "no commit" outside git."""
    head = _git(checkout, "rev-parse", "--short=12", "HEAD")
    if not head:
        return "no commit"
    return head + ("+" if _git(checkout, "status", "--porcelain", "--untracked-files=no") else "")


def _git(checkout: Path, *arguments: str) -> str:
    try:
        answer = subprocess.run(["git", *arguments], cwd=checkout, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return answer.stdout.strip() if answer.returncode == 0 else ""


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="utf-8").splitlines()
    except OSError:
        return []

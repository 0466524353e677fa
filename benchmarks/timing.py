# SPDX-License-Identifier: Apache-2.0
"""Medians of interleaved runs within one process, and where they were measured."""

from __future__ import annotations

import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from headrace.ops import native

CHECKOUT = Path(__file__).resolve().parents[1]


def medians_ms(ways: Mapping[str, Callable[[], object]], repeats: int, device: str = "cpu") -> dict[str, float]:
    """Run each way once to warm up, then all of them in turn ``repeats`` times; medians in milliseconds."""
    for way in ways.values():
        way()
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            _wait(device)
            start = time.perf_counter()
            way()
            _wait(device)
            times[name].append((time.perf_counter() - start) * 1e3)
    return {name: statistics.median(each) for name, each in times.items()}


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    model = next((line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), "")
    return {
        "cpu": model or platform.processor(),
        "threads": torch.get_num_threads(),
        "instruction_set": native.STATUS.cpu_instruction_set,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "commit": _commit(),
    }


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []


def _commit() -> str:
    git = ["git", "-C", str(CHECKOUT)]
    commit = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=False)
    but = ["--", ".", ":!benchmarks/results", ":!RESULTS.md"]  # which another benchmark may just have written
    changed = subprocess.run([*git, "status", "--porcelain", *but], capture_output=True, text=True, check=False)
    return commit.stdout.strip() + ("+changes" if changed.stdout.strip() else "")

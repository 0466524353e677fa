# SPDX-License-Identifier: Apache-2.0
"""Which path computes on this machine, and why: what to look at first when something is slow."""

from __future__ import annotations

import platform
from dataclasses import dataclass

import torch

from headrace.ops import native


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    subject: str
    path: str  # "native", "torch" or a version
    why: str


def findings() -> list[Finding]:
    """What computes on the CPU and on each GPU, after the versions that decide it."""
    status = native.STATUS
    built = status.build.get("compiler", "not built")
    return [
        Finding("Python", platform.python_version(), platform.machine()),
        Finding("torch", torch.__version__, f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU build"),
        Finding("kernels", "loaded" if status.is_loaded else "absent", built if status.is_loaded else status.reason),
        _cpu(status),
        *_gpus(status),
    ]


def _cpu(status: native.Status) -> Finding:
    threads = f"{torch.get_num_threads()} threads"
    if not status.is_loaded:
        return Finding("CPU", "torch", f"blocked torch operations, {threads}: the kernels are absent")
    sets = ", ".join(status.build.get("instruction_sets", []))
    return Finding("CPU", "native", f"{status.cpu_instruction_set}, {threads}; built for {sets}; HEADRACE_CPU chooses")


def _gpus(status: native.Status) -> list[Finding]:
    if torch.version.cuda is None:
        return [Finding("GPU", "none", "this torch is a CPU build")]
    if not torch.cuda.is_available():
        return [Finding("GPU", "none", "torch sees no GPU")]
    return [_gpu(status, i) for i in range(torch.cuda.device_count())]


def _gpu(status: native.Status, index: int) -> Finding:
    subject = f"GPU {index}, {torch.cuda.get_device_name(index)}"
    if not status.is_loaded:
        return Finding(subject, "torch", "the kernels are absent")
    if "cuda" not in status.devices:
        return Finding(subject, "torch", status.build.get("cuda_reason") or "built without CUDA kernels")
    if torch.cuda.get_device_capability(index) < native.OLDEST_GPU:
        return Finding(subject, "torch", "older than sm_80, which the kernels need")
    return Finding(subject, "native", f"built for {', '.join(status.build.get('cuda_architectures', []))}")

# SPDX-License-Identifier: Apache-2.0
"""How much memory does llsa take, forward and backward in one call, and does it grow with the square of the frames?

    python benchmarks/memory.py                     # the table; benchmarks/results/memory_cpu.json
    python benchmarks/memory.py --frames 8000       # one length, not stored

Each length is measured in a process of its own: the most that it ever held, less what it held before q, k and v were
made, as a multiple of q, k and v. They, y, its gradient and theirs are eight tensors, 2.67 times the three given.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from cases import FEATURES, LLSA
from timing import machine

from headrace import ops

RESULTS = Path(__file__).resolve().parent / "results"
FRAMES, HEADS, AT_MOST = (15_000, 30_000, 60_000), 2, 3.5


def main() -> int:
    """Measure, print and store; 1 when the target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, help="one length, not stored")
    parser.add_argument("--backend", choices=["native", "torch"], default="native")
    parser.add_argument("--this-process", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.this_process:
        print(json.dumps(measure(options.frames, options.backend)))
        return 0
    cases = [in_a_process(frames, options.backend) for frames in ([options.frames] if options.frames else FRAMES)]
    for case in cases:
        print(
            f"T = {case['frames']}: q, k, v {case['inputs_mb']:.0f} MB, peak {case['peak_mb']:.0f} MB, "
            f"{case['ratio']:.2f} x; {'met' if case['met'] else 'MISSED'}: at most {AT_MOST} x wanted"
        )
    if options.frames is None and options.backend == "native":
        text = json.dumps({"machine": machine(), "repeats": 1, "cases": cases}, indent=1)
        (RESULTS / "memory_cpu.json").write_text(text + "\n")
    return 0 if all(case["met"] for case in cases) else 1


def in_a_process(frames: int, backend: str) -> dict[str, Any]:
    """What a process that does nothing else measures."""
    command = [sys.executable, __file__, "--this-process", "--frames", str(frames), "--backend", backend]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def measure(frames: int, backend: str) -> dict[str, Any]:
    """One call forward and backward, of llsa with A = 8 and B = 64 over [1, 2, frames, 9, 64] fp32."""
    with ops.backend(backend):
        call(100)  # what the first call loads is not counted
        before = kilobytes("VmRSS")
        call(frames)
    peak = kilobytes("VmHWM") - before
    inputs = 3 * HEADS * frames * LLSA.rows * FEATURES * 4 / 1024
    ratio = peak / inputs
    met = ratio <= AT_MOST
    return {
        "frames": frames, "inputs_mb": inputs / 1024, "peak_mb": peak / 1024, "ratio": round(ratio, 3), "met": met
    }  # fmt: skip


def call(frames: int) -> None:
    """Forward and backward."""
    q, k, v = (torch.randn(1, HEADS, frames, LLSA.rows, FEATURES, requires_grad=True) for _ in range(3))
    y = ops.llsa(q, k, v, LLSA)
    torch.autograd.grad(y, (q, k, v), torch.ones(()).expand_as(y).contiguous())


def kilobytes(what: str) -> int:
    """VmRSS, what this process holds now, or VmHWM, the most that it ever held; as Linux counts."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(what + ":"):
            return int(line.split()[1])
    raise SystemExit(f"/proc/self/status has no {what}: this benchmark needs Linux")


if __name__ == "__main__":
    sys.exit(main())

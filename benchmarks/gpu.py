# SPDX-License-Identifier: Apache-2.0
"""How fast are sa and llsa on a GPU, and how near to what its memory allows? bf16, forward and backward apart.

python benchmarks/gpu.py                        # the table; benchmarks/results/gpu.json

Peers: FlashAttention-2 with a window as PyTorch carries it, compiled FlexAttention, chill-attention where it is
installed. One that is absent or fails is a row with its reason. Gradients are computed again on a graph that is kept.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from cases import BAND, FEATURES, FRAMES, HEADS, LLSA, llsa_flex, ours, sa_flex
from timing import machine

from headrace.ops.layout import num_blocks
from headrace.reach import Band

RESULTS = Path(__file__).resolve().parent / "results"
BATCH = 16
TARGET_US = {"sa": (50, 120), "llsa": (450, 1200)}  # forward, backward, on an H200
COPY_BYTES = 1 << 30

Inputs = list[torch.Tensor]
Way = Callable[..., torch.Tensor]


class FlashWindow(torch.autograd.Function):
    """FlashAttention-2 with a window, [N, H, T, D]."""

    @staticmethod
    def forward(ctx: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, band: Band) -> torch.Tensor:
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        window = {"window_size_left": band.look_back, "window_size_right": band.look_ahead}
        frames = q.shape[1]
        y, log_sums, state, unused, _ = torch.ops.aten._flash_attention_forward(
            q, k, v, None, None, frames, frames, 0.0, False, False, **window
        )
        ctx.save_for_backward(q, k, v, y, log_sums, state, unused)
        ctx.window = window
        return y.transpose(1, 2)

    @staticmethod
    def backward(ctx: Any, grad_y: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        q, k, v, y, log_sums, state, unused = ctx.saved_tensors
        frames = q.shape[1]
        grads = torch.ops.aten._flash_attention_backward(
            grad_y.transpose(1, 2), q, k, v, y, log_sums, None, None, frames, frames, 0.0, False, state, unused,
            **ctx.window,
        )  # fmt: skip
        return *(g.transpose(1, 2) for g in grads), None


def chill(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, band: Band) -> torch.Tensor:
    """chill-attention's sliding window."""
    from chill_attention import SlidingWindowChillMask, chill_attention

    lengths = torch.full(q.shape[:1], q.shape[2], device=q.device, dtype=torch.int32)
    return chill_attention(q, k, v, lengths, mask=SlidingWindowChillMask(band.look_back, band.look_ahead))


WAYS: dict[str, dict[str, Way]] = {
    "sa": {
        "headrace, native": ours("sa", "native"),
        "headrace, torch path": ours("sa", "torch"),
        "FlashAttention-2, window": FlashWindow.apply,
        "FlexAttention, compiled": sa_flex,
        "chill-attention": chill,
    },
    "llsa": {
        "headrace, native": ours("llsa", "native"),
        "headrace, torch path": ours("llsa", "torch"),
        "FlexAttention, expanded": llsa_flex,
    },
}


def main() -> int:
    """Check, time, print and store; 1 when a target is missed, 3 without a GPU."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=30)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("benchmarks/gpu.py: torch sees no GPU", file=sys.stderr)
        return 3
    bandwidth = copy_bandwidth()
    cases = [run(op, options.repeats, bandwidth) for op in WAYS]
    RESULTS.mkdir(exist_ok=True)
    results = {
        "machine": machine(),
        "repeats": options.repeats,
        "copy_tb_per_s": round(bandwidth / 1e12, 3),
        "cases": cases,
    }
    (RESULTS / "gpu.json").write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results["machine"]))
    return 0 if all(target["met"] for case in cases for target in case["targets"]) else 1


def copy_bandwidth() -> float:
    """Bytes a second, read and written, of the fastest copy."""
    source = torch.ones(COPY_BYTES, dtype=torch.uint8, device="cuda")
    to = torch.empty_like(source)
    return 2 * COPY_BYTES / (min(times_us(lambda: to.copy_(source), 20)) * 1e-6)


def times_us(call: Callable[[], object], repeats: int) -> list[float]:
    """Of the GPU, by its own clock."""
    for _ in range(3):
        call()
    events = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(repeats)]
    for start, end in events:
        start.record()
        call()
        end.record()
    torch.cuda.synchronize()
    return [start.elapsed_time(end) * 1e3 for start, end in events]


def run(op: str, repeats: int, bandwidth: float) -> dict[str, Any]:
    """One operation: every way against the float64 result of the torch path, then its times."""
    reach = BAND if op == "sa" else LLSA
    shape = (BATCH, HEADS, FRAMES, FEATURES)
    if op == "llsa":
        shape = (*shape[:2], num_blocks(FRAMES, LLSA), LLSA.rows, FEATURES)
    torch.manual_seed(0)
    inputs = [torch.randn(shape, device="cuda").bfloat16() for _ in range(4)]
    if op == "llsa":  # rows behind the last frame: zero for headrace, anything for peers
        frames = torch.arange(shape[2], device="cuda")[:, None] + torch.arange(shape[3], device="cuda")
        inputs[3] = inputs[3] * (frames < FRAMES)[..., None]
    truth = everything(ours(op, "torch"), [x[:1].double() for x in inputs], reach)
    rows = [measure(name, way, inputs, reach, truth, repeats) for name, way in WAYS[op].items()]
    return report(op, rows, inputs[0].numel() * 2, bandwidth)


def everything(way: Way, inputs: Inputs, reach: Any) -> Inputs:
    """y where there is a gradient to give, and the gradients of q, k and v."""
    leaves = [x.detach().requires_grad_() for x in inputs[:3]]
    y = way(*leaves, reach)
    return [y.detach() * (inputs[3] != 0), *torch.autograd.grad(y, leaves, inputs[3])]


def measure(name: str, way: Way, inputs: Inputs, reach: Any, truth: Inputs, repeats: int) -> dict[str, Any]:
    """Medians of forward and backward in microseconds, or why there are none."""
    try:
        got = everything(way, [x[:1] for x in inputs], reach)
        error = max(((a.double() - b).norm() / b.norm()).item() for a, b in zip(got, truth, strict=True))
        if not error < 0.02:
            return {"way": name, "skipped": f"wrong numbers: relative error {error:.2g}"}
        leaves = [x.detach().requires_grad_() for x in inputs[:3]]
        with torch.no_grad():
            forward = statistics.median(times_us(lambda: way(*leaves, reach), repeats))
        y = way(*leaves, reach)
        backward = statistics.median(
            times_us(lambda: torch.autograd.grad(y, leaves, inputs[3], retain_graph=True), repeats)
        )
    except Exception as error:  # a peer may lack anything; a row says what
        if name.startswith("headrace"):
            raise
        return {"way": name, "skipped": f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"}
    return {"way": name, "forward_us": round(forward, 1), "backward_us": round(backward, 1), "error": error}


def report(op: str, rows: list[dict[str, Any]], tensor_bytes: int, bandwidth: float) -> dict[str, Any]:
    """Print the table of one operation and give it as data."""
    limits = [count * tensor_bytes / bandwidth * 1e6 for count in (4, 8)]  # q, k, v, y; with gradients of all
    print(f"\n{op}, batch {BATCH}, bf16; memory allows {limits[0]:.0f} us forward, {limits[1]:.0f} us backward")
    for row in rows:
        if "skipped" in row:
            print(f"  {row['way']:28} skipped: {row['skipped']}")
            continue
        shares = [limit / row[key] for limit, key in zip(limits, ("forward_us", "backward_us"), strict=True)]
        row["share_of_memory_limit"] = [round(share, 3) for share in shares]
        print(
            f"  {row['way']:28} {row['forward_us']:9.1f} us ({shares[0]:4.0%}) {row['backward_us']:9.1f} us "
            f"({shares[1]:4.0%})  error {row['error']:.1e}"
        )
    own, peers = rows[0], [row for row in rows[1:] if "skipped" not in row]
    targets = []
    for key, most in zip(("forward_us", "backward_us"), TARGET_US[op], strict=True):
        targets.append({"what": key, "at_most_us": most, "reached_us": own[key], "met": own[key] <= most})
        targets += [
            {"what": key, "faster_than": p["way"], "reached": round(p[key] / own[key], 2), "met": p[key] > own[key]}
            for p in peers
        ]
    for target in targets:
        print(f"  {'met' if target['met'] else 'MISSED'}: {target}")
    return {"case": op, "memory_limit_us": [round(x, 1) for x in limits], "rows": rows, "targets": targets}


if __name__ == "__main__":
    sys.exit(main())

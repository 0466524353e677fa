# SPDX-License-Identifier: Apache-2.0
"""How fast are sa and llsa against the other ways to compute them?

python benchmarks/attention.py                  # the table; benchmarks/results/attention_cpu.json
python benchmarks/attention.py --only "SA forward, batch 4"
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from cases import CASES, Case, ours
from timing import machine, medians_ms

RESULTS = Path(__file__).resolve().parent / "results"
SLOWEST_REPEATED_MS = 20_000


def main() -> int:
    """Check, time, print and store; 1 when a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", metavar="CASE", help="one case by name")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--without", metavar="WORD", action="append", default=[], help="leave out peers with this word")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    cases = [case for case in CASES if options.only in (None, case.name)]
    if not cases:
        parser.error(f"--only must be one of {', '.join(repr(case.name) for case in CASES)}")
    results = [run(case, options.repeats, options.without) for case in cases]
    if options.only is None and not options.without:
        RESULTS.mkdir(exist_ok=True)
        text = json.dumps({"machine": machine(), "repeats": options.repeats, "cases": results}, indent=1)
        (RESULTS / "attention_cpu.json").write_text(text + "\n")
    print(json.dumps(machine()))
    return 0 if all(target["met"] for result in results for target in result["targets"]) else 1


def run(case: Case, repeats: int, without: list[str]) -> dict[str, Any]:
    """One case: every way gives the right numbers, then they are timed in turn."""
    peers = {name: call for name, call in case.peers.items() if not any(word in name for word in without)}
    ways = {"headrace, native": ours(case.op, "native"), **peers}
    torch.manual_seed(0)
    inputs = [torch.randn(case.shape()) for _ in range(3)]
    exists = case.rows_that_exist()
    grad = torch.randn(case.shape()) * exists
    truth: list[torch.Tensor] | None = None
    for name, call in ways.items():
        got = compute(call, inputs, grad, case)
        got[0] = got[0] * exists
        truth = got if truth is None else truth
        worst = max(((a - b).norm() / b.norm()).item() for a, b in zip(got, truth, strict=True))
        assert worst < 1e-5, f"{case.name}: {name} differs by {worst:.2g}"
    runs: dict[str, Callable[[], object]] = {
        name: lambda call=call: compute(call, inputs, grad, case) for name, call in ways.items()
    }
    times = medians_ms(runs, repeats)
    return report(case, times)


def compute(call: Any, inputs: list[torch.Tensor], grad: torch.Tensor, case: Case) -> list[torch.Tensor]:
    """y, and the gradients where the case is about them."""
    if not case.backward:
        with torch.no_grad():
            return [call(*inputs, case.reach)]
    leaves = [x.detach().requires_grad_() for x in inputs]
    y = call(*leaves, case.reach)
    return [y.detach(), *torch.autograd.grad(y, leaves, grad)]


def report(case: Case, times: dict[str, float]) -> dict[str, Any]:
    """Print a case's table and give it as data. A family's target is held against its fastest member."""
    own = times["headrace, native"]
    print(f"\n{case.name}: {case.reach}")
    for name, ms in times.items():
        print(f"  {name:28} {ms:10.2f} ms  {ms / own:7.2f} x")
    targets = []
    for family, wanted in case.targets.items():
        members = [ms for name, ms in times.items() if name.startswith(family)]
        if not members:
            continue
        ratio = min(members) / own
        targets.append({"against": family, "wanted": wanted, "reached": round(ratio, 2), "met": ratio >= wanted})
        print(f"  {'met' if ratio >= wanted else 'MISSED'}: {ratio:.1f} x faster than {family}, wanted {wanted} x")
    return {"case": case.name, "median_ms": {k: round(v, 3) for k, v in times.items()}, "targets": targets}


if __name__ == "__main__":
    sys.exit(main())

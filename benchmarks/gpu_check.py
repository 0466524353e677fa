# SPDX-License-Identifier: Apache-2.0
"""All that a GPU is needed for, in one command: build, test, sanitize, measure.

python benchmarks/gpu_check.py    # benchmarks/results/gpu_check.json and gpu.json; logs in build/gpu-check/

Needs the checkout, torch with CUDA and nvcc, and no network. Python packages that are missing there (pytest,
hypothesis, chill-attention) may be carried, unpacked, in the ignored folder .gpu-site. A step that cannot run is a row
that says why; without a GPU everything up to the first use of one is done.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
CARRIED = CHECKOUT / ".gpu-site"
LOGS = CHECKOUT / "build" / "gpu-check"
RESULT = CHECKOUT / "benchmarks" / "results" / "gpu_check.json"


@dataclass(frozen=True)
class Step:
    """One command, and what stands in its way here."""

    name: str
    command: list[str]
    obstacle: Callable[[], str | None]


def nothing() -> str | None:
    """No obstacle."""
    return None


@functools.cache
def no_gpu() -> str | None:
    """Whether torch sees a GPU, asked in a process of its own."""
    code = "import sys, torch; sys.exit(0 if torch.cuda.is_available() else 1)"
    done = subprocess.run([sys.executable, "-c", code], env=environment(), check=False, capture_output=True)
    return None if done.returncode == 0 else "torch sees no GPU"


def no_pytest() -> str | None:
    """pytest and hypothesis, from here or carried."""
    sys.path.append(str(CARRIED))
    missing = [name for name in ("pytest", "hypothesis") if importlib.util.find_spec(name) is None]
    return f"{' and '.join(missing)} not installed; carry wheels in .gpu-site" if missing else no_gpu()


def no_sanitizer() -> str | None:
    """compute-sanitizer of the CUDA toolkit."""
    return no_gpu() if shutil.which("compute-sanitizer") else "compute-sanitizer is not on PATH"


def environment() -> dict[str, str]:
    """The checkout's package first, carried packages last."""
    paths = [str(CHECKOUT), *filter(None, [os.environ.get("PYTHONPATH")]), str(CARRIED)]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


PYTHON = sys.executable
SANITIZE = ["compute-sanitizer", "--error-exitcode", "9", "--tool"]
SMALL = [PYTHON, "benchmarks/small_shapes.py"]
GPU_TESTS = ["tests/ops", "tests/test_graph.py"]  # what needs neither fairseq nor s3prl
STEPS = [
    Step("build", [PYTHON, "csrc/build.py"], nothing),
    Step("doctor", [PYTHON, "-c", "import headrace.cli, sys; sys.exit(headrace.cli.main(['doctor']))"], nothing),
    Step("tests", [PYTHON, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", *GPU_TESTS], no_pytest),
    Step("memcheck", [*SANITIZE, "memcheck", *SMALL], no_sanitizer),
    Step("racecheck", [*SANITIZE, "racecheck", *SMALL], no_sanitizer),
    Step("benchmarks", [PYTHON, "benchmarks/gpu.py"], no_gpu),
]


def main() -> int:
    """Run every step, store and print a row for each; 1 when one failed, 3 when some could not run."""
    LOGS.mkdir(parents=True, exist_ok=True)
    rows = []
    for step in STEPS:
        rows.append(run(step))
        RESULT.parent.mkdir(exist_ok=True)
        RESULT.write_text(json.dumps({"machine": machine(), "steps": rows}, indent=1) + "\n")
    print()
    for row in rows:
        print(f"{row['step']:12} {row['outcome']:8} {row['seconds']:7.1f} s  {row['why']}")
    outcomes = {row["outcome"] for row in rows}
    return 1 if "failed" in outcomes else 3 if "skipped" in outcomes else 0


def run(step: Step) -> dict[str, object]:
    """The row of one step; its output goes to the terminal and into its log."""
    print(f"\n==== {step.name}: {' '.join(Path(word).name for word in step.command[:3])} ...", flush=True)
    why = step.obstacle()
    if why is not None:
        print(f"skipped: {why}", flush=True)
        return {"step": step.name, "outcome": "skipped", "seconds": 0.0, "why": why}
    begun, log = time.monotonic(), LOGS / f"{step.name}.log"
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(
            step.command, cwd=CHECKOUT, env=environment(), text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        assert process.stdout is not None
        last = ""
        for line in process.stdout:
            print(line, end="", flush=True)
            file.write(line)
            last = line.strip() or last
    code = process.wait()
    seconds = round(time.monotonic() - begun, 1)
    return {"step": step.name, "outcome": "passed" if code == 0 else "failed", "seconds": seconds, "why": last[:200]}


def machine() -> dict[str, object]:
    """What it ran on, once the package can be imported."""
    code = "import json, sys; sys.path.insert(0, 'benchmarks'); import timing; print(json.dumps(timing.machine()))"
    done = subprocess.run(
        [PYTHON, "-c", code], cwd=CHECKOUT, env=environment(), check=False, capture_output=True, text=True
    )
    return json.loads(done.stdout) if done.returncode == 0 else {"python": sys.version.split()[0]}


if __name__ == "__main__":
    sys.exit(main())

# SPDX-License-Identifier: Apache-2.0
"""Memory is linear in the number of frames: what benchmarks/memory.py measures in a process of its own."""

import subprocess
import sys
from pathlib import Path

import pytest

from headrace.ops import native

BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks" / "memory.py"


@pytest.mark.skipif(not native.STATUS.is_loaded, reason=native.STATUS.reason)
@pytest.mark.parametrize("frames", [6_000, pytest.param(60_000, marks=pytest.mark.slow)])
def test_llsa_forward_and_backward_hold_at_most_three_and_a_half_times_their_inputs(frames):
    command = [sys.executable, BENCHMARK, "--frames", str(frames)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr

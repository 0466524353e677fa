# SPDX-License-Identifier: Apache-2.0
"""Break each kernel on purpose and see its tests fail: one broken line at a time, in a copy of the checkout.

    .venv/bin/python tests/csrc/mutations.py            # all; 20 to 40 minutes on 2 cores
    .venv/bin/python tests/csrc/mutations.py tick       # those with this word in their names

Not a test that runs by itself: a check of the tests, to be run when kernels or their tests change. Ends with 1 when a
broken kernel passes.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
COPIED = ("csrc", "headrace", "tests", "pyproject.toml")
CPU = ["tests/ops/test_native.py", "tests/ops/test_step.py"]
QUERY_BIAS = ["tests/ops/test_query_bias.py"]
CUDA = ["tests/csrc/test_cuda_emulated.py"]


@dataclass(frozen=True)
class Mutation:
    """``old``, which stands once in ``file``, becomes ``new``; ``tests`` have to notice."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


def cpu(name: str, file: str, old: str, new: str) -> Mutation:
    return Mutation(f"cpu {name}", file, old, new, tuple(CPU))


def query_bias(name: str, file: str, old: str, new: str) -> Mutation:
    return Mutation(f"cpu query bias, {name}", file, old, new, tuple(QUERY_BIAS))


def cuda(name: str, file: str, old: str, new: str) -> Mutation:
    return Mutation(f"cuda {name}", file, old, new, tuple(CUDA))


REACH, CHANNELS = "csrc/common/reach.h", "csrc/cpu/channel_rows.h"
# of the geometry that both share
SHARED = [
    (
        "sa, A one less",
        REACH,
        "end_of_group(block) + look_ahead : block",
        "end_of_group(block) + look_ahead - 1 : block",
    ),
    ("llsa, A one less", REACH, ": block * hop + rows;", ": block * hop + rows - (rows > hop);"),
    ("B one less", REACH, "frame(block, row)) - look_back;", "frame(block, row)) - look_back + (look_back > 0);"),
]
MUTATIONS = [
    *(kind(*one) for kind in (cpu, cuda) for one in SHARED),
    cpu(
        "first layer, A one less",
        "csrc/cpu/attention.h",
        "const int64_t to = block * hop + rows;",
        "const int64_t to = block * hop + rows - (rows > hop);",
    ),
    cpu(
        "first layer, a row too many",
        "csrc/cpu/attention.h",
        "(frame - rows) / hop + 1;",
        "(frame - rows + 1) / hop + 1;",
    ),
    cpu(
        "forward, the last block of a tile",
        "csrc/cpu/forward.h",
        "minimum(first + tile, blocks_to_write(call.of)), scratch",
        "minimum(first + tile - 1, blocks_to_write(call.of)), scratch",
    ),
    cpu(
        "window of a tile one frame short",
        "csrc/cpu/units.h",
        "reach.is_band ? reach.end(end_block - 1, 0, length) :",
        "reach.is_band ? reach.end(end_block - 1, 0, length) - 1 :",
    ),
    cpu(
        "backward, sums of a key handed out early",
        "csrc/cpu/backward.h",
        "flush(window_.begin);",
        "flush(window_.begin + 1);",
    ),
    cpu(
        "backward, a border one frame narrow",
        "csrc/cpu/backward.h",
        "if (offset < 0 || offset >=",
        "if (offset <= 0 || offset >=",
    ),
    cpu(
        "a block's last provisional row",
        "csrc/cpu/head.h",
        "minimum(reach_.rows, length_ - frame)",
        "minimum(reach_.rows - (reach_.rows > reach_.hop), length_ - frame)",
    ),
    cpu(
        "backward, sums of a provisional row go on",
        "csrc/cpu/backward.h",
        "memset(sums, 0, static_cast<size_t>(count * padded) * sizeof(Real));",
        "memset(sums, 0, static_cast<size_t>((count - (count > 0)) * padded) * sizeof(Real));",
    ),
    cpu(
        "backward of the first layer, a key ahead",
        CHANNELS,
        "int64_t key = channels.end(channels.first_block(frame), length);",
        "int64_t key = channels.end(channels.first_block(frame), length) + 1;",
    ),
    cpu("tick, A one less", "csrc/cpu/step.h", "frame + reach.look_ahead + 1 :", "frame + reach.look_ahead :"),
    cpu(
        "tick, B one less",
        "csrc/cpu/step.h",
        "(reach.per_block ? position_ : frame) - reach.look_back;",
        "(reach.per_block ? position_ : frame) - reach.look_back + 1;",
    ),
    cpu(
        "tick, the ring misses a frame",
        "csrc/cpu/step.h",
        "reach.is_band ? call_.key_rows : reach.hop;",
        "reach.is_band ? call_.key_rows - 1 : reach.hop - 1;",
    ),
    query_bias(
        "its first frame",
        "csrc/cpu/head.h",
        "first_of(reach_, unit, i) - (unit.frame + i) - reach_.lowest_offset();",
        "first_of(reach_, unit, i) - (unit.frame + i) - reach_.lowest_offset() + (unit.block > 0);",
    ),
    query_bias(
        "its last frame",
        "csrc/cpu/softmax.h",
        "for (int64_t c = first; c < end; ++c) scores[c] +=",
        "for (int64_t c = first; c < end - 1; ++c) scores[c] +=",
    ),
    query_bias(
        "the first row's for all of a unit",
        "csrc/cpu/head.h",
        "unit_row<Real>(of_.bias, unit, i) +",
        "unit_row<Real>(of_.bias, unit, 0) +",
    ),
    query_bias(
        "the first item's for all",
        "csrc/tensors.h",
        "return is_of_queries(bias) ? reading(*bias)",
        "return is_of_queries(bias) ? View<const void>{bias->const_data_ptr(), "
        "{0, bias->stride(1), bias->stride(2), bias->stride(3)}}",
    ),
    query_bias(
        "numbers taken to be side by side",
        "csrc/tensors.h",
        "return x.has_value() ? OptionalTensor(with_unit_stride(*x)) : x;",
        "return x;",
    ),
    query_bias(
        "the first row's gradient for all of a unit",
        "csrc/cpu/backward.h",
        "head_.template unit_row<Real>(call_.bias_sums, unit, i) +",
        "head_.template unit_row<Real>(call_.bias_sums, unit, 0) +",
    ),
    query_bias(
        "its gradient by segments",
        "csrc/cpu/run.cpp",
        "if (!of_queries) std::swap(",
        "if (!of_queries || call.segments.count > 1) std::swap(",
    ),
    query_bias(
        "the last gradient of a row",
        "csrc/cpu/backward.h",
        "for (int64_t c = seen.first; c < seen.end; ++c) sums[c - seen.first] += products[c];",
        "for (int64_t c = seen.first; c < seen.end - 1; ++c) sums[c - seen.first] += products[c];",
    ),
    query_bias(
        "tick, its first frame",
        "csrc/cpu/step.h",
        "begin_ + seen.first - (first_frame() + i) - call_.reach.lowest_offset();",
        "seen.first - i - call_.reach.lowest_offset();",
    ),
    query_bias(
        "tick, the first stream's",
        "csrc/cpu/step.h",
        "row_of<Real>(call_.bias, stream_, head_, 0, i) + first_offset",
        "row_of<Real>(call_.bias, 0, head_, 0, i) + first_offset",
    ),
    cuda(
        "backward, first seer",
        REACH,
        "frame(block, row) - look_ahead;",
        "frame(block, row) - look_ahead + (look_ahead > 0);",
    ),
    cuda(
        "backward, last seer",
        REACH,
        "(frame(block, row) + look_back) / hop + 1;",
        "(frame(block, row) + look_back) / hop;",
    ),
    cuda(
        "tile, window one frame short",
        "csrc/cuda/tile.cuh",
        "finals = window_end > window ? window_end - window : 0;",
        "finals = window_end > window ? window_end - window - 1 : 0;",
    ),
    cuda("tile, a row of the next one", "csrc/cuda/tile.cuh", "i < rows && plan.reach", "i <= rows && plan.reach"),
    cuda(
        "backward, the last key of a tile",
        "csrc/cuda/key_tile.cuh",
        "return first + i < total;",
        "return first + i < total - 1;",
    ),
    cuda(
        "backward, keys by their oldest",
        "csrc/cuda/key_tile.cuh",
        "newest = key(plan, until - 1);",
        "newest = key(plan, from);",
    ),
    cuda("tick, A one less", "csrc/cuda/step.cuh", "frame + reach.look_ahead + 1 :", "frame + reach.look_ahead :"),
    cuda(
        "tick, B one less",
        "csrc/cuda/step.cuh",
        "(reach.per_block ? position_ : frame) - reach.look_back :",
        "(reach.per_block ? position_ : frame) - reach.look_back + 1 :",
    ),
]


def main(words: list[str]) -> int:
    """Apply, build, test; a line each."""
    chosen = [mutation for mutation in MUTATIONS if all(word in mutation.name for word in words)]
    survivors = []
    for mutation in chosen:
        started = time.monotonic()
        found = what_fails(mutation)
        print(f"{mutation.name}: {found or 'SURVIVED'}  ({time.monotonic() - started:.0f} s)", flush=True)
        if found is None:
            survivors.append(mutation.name)
    print(
        f"{len(chosen) - len(survivors)} of {len(chosen)} were noticed"
        + "".join(f"\n  not: {name}" for name in survivors)
    )
    return 1 if survivors else 0


def what_fails(mutation: Mutation) -> str | None:
    """The first test that a mutation breaks; None where all pass."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in COPIED:
            source = CHECKOUT / name
            (shutil.copytree if source.is_dir() else shutil.copy)(source, copy / name)
        file = copy / mutation.file
        text = file.read_text(encoding="utf-8")
        assert text.count(mutation.old) == 1, f"{mutation.name}: {text.count(mutation.old)} places in {mutation.file}"
        file.write_text(text.replace(mutation.old, mutation.new), encoding="utf-8")
        environment = {**os.environ, "PYTHONPATH": str(copy), "HEADRACE_CUDA": "0", "OMP_NUM_THREADS": "1"}
        if mutation.tests != tuple(CUDA):
            build = subprocess.run(
                [sys.executable, "csrc/build.py"], cwd=copy, env=environment, check=False, capture_output=True
            )
            assert build.returncode == 0, build.stderr.decode()[-2000:]
        line = [sys.executable, "-P", "-m", "pytest", "-x", "-q", "--no-header", "-p", "no:cacheprovider", "-m",
                "not slow and not gpu", *mutation.tests]  # fmt: skip
        done = subprocess.run(line, cwd=copy, env=environment, check=False, capture_output=True, text=True)
        if done.returncode == 0:
            return None
        failed = [said for said in done.stdout.splitlines() if said.startswith("FAILED")]
        return failed[0].split(" - ")[0].removeprefix("FAILED ") if failed else f"pytest ended with {done.returncode}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

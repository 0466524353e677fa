# SPDX-License-Identifier: Apache-2.0
"""The CUDA kernels' own code, run on the host thread by thread (emulator.h), against the torch path in float64."""

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from covering_array import covering_array
from headrace import ops
from headrace.ops.layout import num_blocks
from headrace.reach import Band, Blocks

HERE = Path(__file__).resolve().parent
PARAMETERS = {
    "T": [0, 1, 2, 9, 63, 64, 65, 130],
    "A": [0, 1, 3, 8, 16],
    "B": [0, 1, 8, 64, 200, None],
    "D": [16, 32, 64, 80, 128, 20],
    "dtype": [torch.bfloat16, torch.float16],
    "memory": ["contiguous", "heads inside"],
    "lengths": ["whole", "ragged"],
    "bias": [False, True],
}
CASES = {
    "sa": covering_array(PARAMETERS),
    "llsa": covering_array({**PARAMETERS, "hop": [1, 2, 16, 70], "per_block": [False, True], "final": [False, True]}),
}
ROUNDING = {torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}


@pytest.fixture(scope="module")
def kernels(tmp_path_factory):
    if shutil.which("g++") is None:
        pytest.skip("no g++ is here")
    library = tmp_path_factory.mktemp("emulated") / "emulated.so"
    flags = ["-std=c++17", "-O1", "-shared", "-fPIC", "-Wno-unknown-pragmas", f"-I{HERE}"]
    subprocess.run(["g++", *flags, HERE / "emulated.cpp", "-o", library], check=True)
    return ctypes.CDLL(str(library))


def tensor(shape, dtype, memory):
    if memory == "heads inside":
        return torch.randn(shape[0], *shape[2:-1], shape[1], shape[-1]).to(dtype).movedim(-2, 1)
    return torch.randn(shape).to(dtype)


def numbers(values):
    return (ctypes.c_int64 * len(values))(*values)


def strides_of(x):
    return [x.stride(0), x.stride(1), x.stride(2), x.stride(3) if x.dim() == 5 else 0]


def pointer(x):
    return None if x is None else ctypes.c_void_p(x.data_ptr())


def forward(kernels, q, k, v, reach, lengths, bias):
    """y and the log of the softmax's denominators, in memory that was full of NaN."""
    y = torch.full_like(q, float("nan"))
    log_sums = torch.full(q.shape[:-1], float("nan"))
    sizes = [*q.shape[:3], q.shape[3] if q.dim() == 5 else 1, q.shape[-1]]
    back = -1 if reach.look_back is None else reach.look_back
    hop, per_block = (reach.hop, reach.per_block) if isinstance(reach, Blocks) else (1, False)
    failed = kernels.headrace_emulated_forward(
        numbers(sizes), numbers([s for x in (q, k, v, y) for s in strides_of(x)]),
        numbers([isinstance(reach, Band), reach.look_ahead, back, hop, per_block]), q.dtype == torch.float16,
        pointer(lengths), pointer(bias), *(pointer(x) for x in (q, k, v, y, log_sums)),
    )  # fmt: skip
    assert not failed
    return y, log_sums


def problem(op, case):
    torch.manual_seed(len(str(case)))
    frames, ahead, back = case["T"], case["A"], case["B"]
    if op == "sa":
        reach, shapes = Band(ahead, back), [(2, 2, frames, case["D"])] * 3
    else:
        reach = Blocks(ahead, back, case["hop"], case["per_block"])
        count = num_blocks(frames, reach)
        rows = [reach.hop if case["final"] else reach.rows, reach.rows, reach.rows]
        shapes = [(2, 2, count, r, case["D"]) for r in rows]
    inputs = [tensor(shape, case["dtype"], case["memory"]) for shape in shapes]
    lengths = torch.randint(0, frames + 1, (2,)) if case["lengths"] == "ragged" else None
    bias = None
    if case["bias"] and back is not None:
        lowest, highest = reach.offsets()
        bias = torch.randn(2, highest - lowest + 1)
    return inputs, reach, lengths, bias


def name_of(case):
    return "-".join(f"{k}{str(v).removeprefix('torch.')}" for k, v in case.items())


def check(kernels, op, case):
    inputs, reach, lengths, bias = problem(op, case)
    y, log_sums = forward(kernels, *inputs, reach, lengths, bias)
    with ops.backend("torch"):
        truth = getattr(ops, op)(*(x.double() for x in inputs), reach, lengths, None if bias is None else bias.double())
    assert log_sums.isfinite().all()
    error = (y.double() - truth).norm() / truth.norm().clamp_min(1e-30)
    assert error <= 1.5 * ROUNDING[case["dtype"]], f"relative error {error:.2g}"


@pytest.mark.parametrize("case", CASES["sa"], ids=name_of)
def test_sa_forward_is_the_torch_path(kernels, case):
    check(kernels, "sa", case)


@pytest.mark.parametrize("case", CASES["llsa"], ids=name_of)
def test_llsa_forward_is_the_torch_path(kernels, case):
    check(kernels, "llsa", case)

# SPDX-License-Identifier: Apache-2.0
"""The CUDA kernels' own code, run on the host thread by thread (emulator.h), against the torch path in float64."""

import ctypes
import shutil

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

import emulated_kernels
from attention_problem import OF_BLOCKS, PARAMETERS, Problem, check, name_of
from covering_array import covering_array
from headrace import ops
from headrace.reach import Band, Blocks

SMALLER = {  # a thread is a fiber here: what each boundary needs, and no more
    "T": [0, 1, 2, 9, 63, 64, 65, 130],
    "B": [0, 1, 8, 64, 200, None],
    "D": [16, 32, 64, 80, 128, 20],
    "dtype": [torch.float32, torch.bfloat16, torch.float16],
    "items": [1, 2],
}
CASES = {
    "sa": covering_array({**PARAMETERS, **SMALLER}),
    "llsa": covering_array({**PARAMETERS, **SMALLER, **OF_BLOCKS, "hop": [1, 2, 16, 70]}),
}


@pytest.fixture(scope="module")
def kernels(tmp_path_factory):
    if shutil.which("g++") is None:
        pytest.skip("no g++ is here")
    return emulated_kernels.build(tmp_path_factory.mktemp("emulated"))


def attention(kernels):
    """The kernels as an operation of torch, forward and backward."""

    class Attention(torch.autograd.Function):
        @staticmethod
        def forward(ctx, q, k, v, reach, lengths, bias):
            y, log_sums = emulated_kernels.forward(kernels, q, k, v, reach, lengths, bias)
            assert log_sums.isfinite().all()
            ctx.save_for_backward(q, k, v, y, log_sums)
            ctx.rest = (reach, lengths, bias)
            return y

        @staticmethod
        def backward(ctx, grad_y):
            q, k, v, y, log_sums = ctx.saved_tensors
            *grads, grad_bias = emulated_kernels.backward(kernels, grad_y, q, k, v, y, log_sums, *ctx.rest)
            return *grads, None, None, grad_bias

    return Attention.apply


def check_case(kernels, op, case):
    torch.manual_seed(len(name_of(case)))
    problem = Problem(op, case)
    check(problem, problem.run(attention(kernels)), problem.torch(torch.float64), problem.plain(), least=0.03)


@given(st.integers(1, 2**31 - 1), st.integers(0, 2**31 - 1))
@example(2**31 - 1, 2**31 - 1)
@example(1, 2**31 - 1)
@example(2**30 + 1, 2**31 - 1)
def test_division_by_multiplication_is_exact(kernels, divisor, n):
    assert kernels.emulated_quotient(ctypes.c_int64(divisor), n) == n // divisor


@pytest.mark.parametrize("case", CASES["sa"], ids=name_of)
def test_sa_is_the_torch_path(kernels, case):
    check_case(kernels, "sa", case)


@pytest.mark.parametrize("case", CASES["llsa"], ids=name_of)
def test_llsa_is_the_torch_path(kernels, case):
    check_case(kernels, "llsa", case)


@pytest.mark.parametrize(
    "reach", [Band(3, 20), Band(0, 80), Blocks(3, 9), Blocks(2, 70, 4), Blocks(2, 6, 4, True)], ids=str
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_ticks_are_the_torch_path(kernels, reach, dtype):
    band = isinstance(reach, Band)
    rows = 9 if band else reach.rows
    frames = reach.look_back + (reach.look_ahead + rows if band else reach.hop)
    keys, values = (torch.randn(3, 2, frames, 40).to(dtype) for _ in range(2))
    slots, positions = torch.tensor([2, 0]), torch.zeros(3, dtype=torch.int64)
    ours, theirs = ([x.clone() for x in (keys, values, positions)] for _ in range(2))
    for tick in range(12):
        q, k, v = (torch.randn(2, 2, rows, 40).to(dtype) for _ in range(3))
        lengths = None if tick < 11 else ours[2][slots] + torch.tensor([2, 10**6])
        got = emulated_kernels.step(kernels, q, k, v, *ours, slots, reach, lengths)
        with ops.backend("torch"):
            truth = (ops.sa_step if band else ops.llsa_step)(q, k, v, *theirs, slots, reach, lengths)
        assert torch.allclose(got, truth, atol=1e-5 if dtype == torch.float32 else 1e-2)
        for a, b in zip(ours, theirs, strict=True):
            assert torch.equal(a, b)

# SPDX-License-Identifier: Apache-2.0
"""The CUDA kernels' own code, run on the host thread by thread (emulator.h), against the torch path in float64."""

import ctypes
import functools
import shutil

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

import emulated_kernels
from attention_problem import OF_BLOCKS, PARAMETERS, REACHES_OF_TICKS, Problem, check, check_ticks, name_of
from covering_array import covering_array

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


@pytest.mark.parametrize("reach", REACHES_OF_TICKS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_ticks_are_the_torch_path(kernels, reach, dtype):
    check_ticks(functools.partial(emulated_kernels.step, kernels), reach, dtype, "cpu")

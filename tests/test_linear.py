# SPDX-License-Identifier: Apache-2.0
"""Linear maps of few rows: torch's map, row by row, whatever the companions and the threads."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from headrace import ops
from headrace.linear import FEW_ROWS, Linear, linear
from headrace.ops import native

needs_kernels = pytest.mark.skipif("cpu" not in native.STATUS.devices, reason="the native kernels were not built")
SHAPES = [(1, 1), (7, 5), (16, 3), (65, 130), (100, 64), (768, 67)]


def arguments(inputs, outputs, rows):
    torch.manual_seed(inputs + outputs)
    bias = torch.randn(outputs) if outputs != 64 else None
    return torch.randn(2 * rows, inputs)[::2], torch.randn(outputs, inputs), bias


@needs_kernels
@pytest.mark.parametrize("rows", [0, 1, 2, 3, 4, 5, 9, 40], ids=lambda n: f"{n} rows")
@pytest.mark.parametrize(("inputs", "outputs"), SHAPES, ids=str)
def test_the_kernel_is_the_linear_map(rows, inputs, outputs):
    x, weight, bias = arguments(inputs, outputs, rows)
    exact = F.linear(x.double(), weight.double(), None if bias is None else bias.double())
    got = torch.ops.headrace.few_rows_linear(x, weight, bias)
    assert got.shape == exact.shape
    assert (got - exact).norm() <= 1e-6 * exact.norm()


@needs_kernels
@pytest.mark.parametrize("rows", range(2, 10), ids=lambda n: f"{n} rows")
def test_a_row_has_the_same_bits_alone_and_among_others(rows):
    x, weight, bias = arguments(100, 131, rows)
    together = torch.ops.headrace.few_rows_linear(x, weight, bias)
    for i in range(rows):
        assert torch.equal(together[i : i + 1], torch.ops.headrace.few_rows_linear(x[i : i + 1], weight, bias))


@needs_kernels
def test_any_number_of_threads_gives_the_same_bits():
    given, before, results = arguments(768, 1000, 5), torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(torch.ops.headrace.few_rows_linear(*given))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


@needs_kernels
def test_numbers_that_are_not_finite_stay_in_their_rows():
    x, weight, bias = arguments(80, 6, 3)
    x[1, 79] = float("nan")
    y = torch.ops.headrace.few_rows_linear(x, weight, bias)
    assert y[1].isnan().all() and y[[0, 2]].isfinite().all()


@needs_kernels
def test_opcheck():
    torch.library.opcheck(torch.ops.headrace.few_rows_linear, arguments(80, 6, 3))


@needs_kernels
@pytest.mark.parametrize("bad", ["fp64", "depth"])
def test_the_kernel_refuses_what_it_cannot_read(bad):
    x, weight, bias = arguments(80, 6, 3)
    with pytest.raises(RuntimeError, match=r"few_rows_linear: x must be \[rows, depth\]"):
        torch.ops.headrace.few_rows_linear(x, weight.double() if bad == "fp64" else weight[:, :40], bias)


@needs_kernels
def test_the_kernel_takes_few_rows_without_gradients_and_torch_the_rest(monkeypatch):
    layer, calls = Linear(16, 8), []
    kernel = torch.ops.headrace.few_rows_linear.default
    monkeypatch.setattr(torch.ops.headrace.few_rows_linear, "default", lambda *given: calls.append(1) or kernel(*given))

    def used(x, run=layer):
        calls.clear()
        y = run(x)
        assert y.shape == (*x.shape[:-1], 8)
        return bool(calls)

    few = torch.randn(2, 3, 16)
    assert not used(few), "a gradient is wanted"
    with torch.no_grad():
        assert used(few)
        assert used(few.transpose(0, 1))
        assert not used(torch.randn(FEW_ROWS + 1, 16))
        assert not used(torch.randn(0, 16))
        assert not used(few.double(), Linear(16, 8).double())
        with torch.autocast("cpu", torch.bfloat16):
            assert not used(few)
        with ops.backend("torch"):
            assert not used(few)


@needs_kernels
def test_both_ways_agree():
    x, weight, bias = arguments(768, 300, 4)
    torch.testing.assert_close(linear(x, weight, bias), F.linear(x, weight, bias), rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        torch.testing.assert_close(linear(x, weight, bias), F.linear(x, weight, bias), rtol=1e-4, atol=1e-4)

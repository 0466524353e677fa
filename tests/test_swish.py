# SPDX-License-Identifier: Apache-2.0
"""Swish is x * sigmoid(x), in its own memory where no gradient needs what was there."""

import pytest
import torch

from headrace.swish import swish


@pytest.mark.parametrize("with_gradients", [True, False], ids=["with gradients", "without"])
def test_it_is_x_times_sigmoid_x(with_gradients):
    x = torch.linspace(-20, 20, 401, dtype=torch.float64)
    expected = x * torch.sigmoid(x)
    with torch.set_grad_enabled(with_gradients):
        torch.testing.assert_close(swish(x.clone()), expected, atol=1e-14, rtol=1e-14)


def test_its_gradient_is_that_of_the_formula():
    x = torch.linspace(-3, 3, 31, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(swish, x)


def test_without_gradients_it_takes_no_memory_of_its_own():
    x = torch.ones(3)
    with torch.no_grad():
        assert swish(x).data_ptr() == x.data_ptr()
    assert swish(torch.ones(3, requires_grad=True)).grad_fn is not None

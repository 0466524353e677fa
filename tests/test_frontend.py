# SPDX-License-Identifier: Apache-2.0
"""Convolutions of the waveform in 16 bits are those in fp64, rounded, whatever the CPU's own do with few channels."""

import pytest
import torch

from headrace.frontend import ConvolutionLayer

ROUNDING = {torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}


def values_and_gradients(layer, x, grad, dtype):
    layer, leaf = layer.to(dtype), x.to(dtype).requires_grad_()
    y = layer(leaf, None)
    return [y.detach(), *torch.autograd.grad(y, [leaf, layer.conv.weight], grad.to(dtype))]


@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
@pytest.mark.parametrize("kernel, stride", [(2, 2), (4, 4), (8, 3), (8, 8)], ids=["2-2", "4-4", "8-3", "8-8"])
@pytest.mark.parametrize("channels", [1, 8, 12, 16, 20, 24, 31, 32, 64])
def test_a_convolution_in_16_bits_is_nearly_that_in_fp64(channels, kernel, stride, dtype):
    torch.manual_seed(0)
    layer = ConvolutionLayer(channels, 48, kernel, stride, bias=False, norm=None).to(dtype)
    frames = 39
    x = torch.randn(3, channels, (frames - 1) * stride + kernel).to(dtype)
    grad = torch.randn(3, 48, frames).to(dtype)
    got = values_and_gradients(layer, x, grad, dtype)
    truth = values_and_gradients(layer, x, grad, torch.float64)
    for mine, true in zip(got, truth, strict=True):
        assert (mine.double() - true).norm() <= 2 * ROUNDING[dtype] * true.norm()

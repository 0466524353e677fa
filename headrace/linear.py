# SPDX-License-Identifier: Apache-2.0
"""Linear maps that are also fast for few rows, as live running has them."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from headrace.ops.backend import runs_native

FEW_ROWS = 48  # beyond some 64, rearranging the weights first, as torch does, pays


class Linear(nn.Linear):
    """``nn.Linear`` with ``linear`` as its map."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """[..., in_features] -> [..., out_features]."""
        return linear(input, self.weight, self.bias)


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """``F.linear``; for few rows in fp32 on the CPU, without gradients, by a kernel that reads the weights just once.

    Args:
        x: [..., depth].
        weight: [channels, depth].
        bias: [channels].

    Returns:
        [..., channels]; a row's bits do not depend on its companions where the kernel computes.
    """
    if not _suits_the_kernel(x, weight):
        return F.linear(x, weight, bias)
    y = torch.ops.headrace.few_rows_linear.default(x.reshape(-1, x.shape[-1]), weight, bias)
    return y.view(*x.shape[:-1], weight.shape[0])


def _suits_the_kernel(x: torch.Tensor, weight: torch.Tensor) -> bool:
    if torch.is_grad_enabled() or x.device.type != "cpu" or torch.compiler.is_compiling():
        return False
    is_fp32 = x.dtype == weight.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    return is_fp32 and 0 < x.numel() <= FEW_ROWS * weight.shape[1] and runs_native(x)

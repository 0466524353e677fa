# SPDX-License-Identifier: Apache-2.0
"""8-bit weights on the CPU: linear maps whose weights are whole numbers in -127 .. 127.

Each output channel has a scale of its own, and so has each row of the input, found as it comes: a row's result does not
depend on its companions in the batch. The front-end's convolutions, attention and the norms stay fp32.
"""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import nn

from headrace.ops.backend import runs_native

LARGEST = 127
PADDING = 64  # numbers; what the kernels read at once


class Int8Linear(nn.Module):
    """A linear map with 8-bit weights; fp32 in and out, on the CPU, without gradients."""

    weight: torch.Tensor
    scales: torch.Tensor
    bias: torch.Tensor | None

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        weight = linear.weight.detach().float()
        scales = weight.abs().amax(1).clamp(min=torch.finfo(torch.float32).tiny) / LARGEST
        padded = -(-self.in_features // PADDING) * PADDING
        whole = torch.zeros(self.out_features, padded, dtype=torch.int8)
        whole[:, : self.in_features] = (weight / scales[:, None]).round().to(torch.int8)
        self.register_buffer("weight", whole)
        self.register_buffer("scales", scales)
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach().float())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., in_features] fp32 -> [..., out_features]."""
        rows = x.reshape(-1, self.in_features)
        multiply = torch.ops.headrace.int8_linear.default if runs_native(x) else int8_linear
        y = multiply(rows, self.weight, self.scales, self.bias)
        return y.view(*x.shape[:-1], self.out_features)


def int8_linear(x: torch.Tensor, weight: torch.Tensor, scales: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """The definition. x: [rows, depth] fp32; weight: [channels, depth or more] int8; scales, bias: [channels]."""
    most = x.abs().amax(1, keepdim=True)
    whole = (x * torch.where(most > 0, LARGEST / most, 0)).round()
    sums = whole.double() @ weight[:, : x.shape[1]].double().T  # exact: whole numbers far below 2^53
    y = sums.float() * (most / LARGEST * scales)
    return y if bias is None else y + bias


Module = TypeVar("Module", bound=nn.Module)


def to_int8(encoder: Module) -> Module:
    """Put 8-bit weights into every linear map of a module, in place.

    Raises:
        ValueError: it is in training mode, or not fp32 on the CPU.
    """
    like = next(encoder.parameters())
    if encoder.training:
        raise ValueError("8-bit weights have no gradient; call encoder.eval() first.")
    if like.device.type != "cpu" or like.dtype != torch.float32:
        raise ValueError(f"8-bit weights are for fp32 on the CPU, got {like.dtype} on {like.device}.")
    for parent in list(encoder.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Linear):
                setattr(parent, name, Int8Linear(child))
    return encoder

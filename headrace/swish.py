# SPDX-License-Identifier: Apache-2.0
"""Swish, x * sigmoid(x)."""

from __future__ import annotations

import torch
from torch.nn import functional as F


def swish(x: torch.Tensor) -> torch.Tensor:
    """Of a tensor that nobody else reads, any shape: without gradients in its own memory.

    A new buffer costs several times the function where it is large: its pages are mapped at first touch.
    """
    return F.silu(x, inplace=not torch.is_grad_enabled())

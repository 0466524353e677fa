# SPDX-License-Identifier: Apache-2.0
"""The torch path of ``sa`` and ``llsa``: a few queries at a time, so that memory stays linear in the number of frames.

Queries are taken in groups of neighbours; a group needs one contiguous slice of keys and values. Forward stores only
its inputs; backward visits the groups again, recomputes each, and lets autograd differentiate that one group.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

Tensor = torch.Tensor


class Group(NamedTuple):
    """Queries [first, end) along the frame (or block) axis, and the slice [key_first, key_end) that they may see."""

    first: int
    end: int
    key_first: int
    key_end: int


Attend = Callable[[Tensor, Tensor, Tensor, Tensor | None, Group], Tensor]


def masked_softmax(scores: Tensor, seen: Tensor) -> Tensor:
    """Softmax over the last axis of the seen entries only; a row that sees nothing is uniform, never NaN."""
    return scores.masked_fill(~seen, torch.finfo(scores.dtype).min).softmax(-1)


class Blocked(torch.autograd.Function):
    """Apply ``attend`` group by group along axis 2 of q; groups cover that axis."""

    @staticmethod
    def forward(
        ctx: Any, attend: Attend, groups: list[Group], q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None
    ) -> Tensor:
        ctx.attend, ctx.groups = attend, groups
        ctx.save_for_backward(q, k, v, bias)
        y = torch.empty(q.shape, dtype=q.dtype, device=q.device)
        for group in groups:
            y[:, :, group.first : group.end] = attend(*_slices(q, k, v, group), bias, group)
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, bias = ctx.saved_tensors
        totals = [torch.zeros(x.shape, dtype=x.dtype, device=x.device) for x in (q, k, v)]
        total_bias = None if bias is None else torch.zeros_like(bias)
        for group in ctx.groups:
            with torch.enable_grad():
                parts = [x.detach().requires_grad_() for x in _slices(q, k, v, group)]
                part_bias = None if bias is None else bias.detach().requires_grad_()
                y = ctx.attend(*parts, part_bias, group)
            wanted = parts if part_bias is None else [*parts, part_bias]
            grads = torch.autograd.grad(y, wanted, grad_y[:, :, group.first : group.end])
            for total, grad in zip(_slices(totals[0], totals[1], totals[2], group), grads[:3], strict=True):
                total += grad
            if total_bias is not None:
                total_bias += grads[3]
        return None, None, *totals, total_bias


def _slices(q: Tensor, k: Tensor, v: Tensor, group: Group) -> tuple[Tensor, Tensor, Tensor]:
    keys = slice(group.key_first, group.key_end)
    return q[:, :, group.first : group.end], k[:, :, keys], v[:, :, keys]

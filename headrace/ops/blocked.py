# SPDX-License-Identifier: Apache-2.0
"""The torch path of ``sa`` and ``llsa``: a few queries at a time, so that memory stays linear in the number of frames.

Queries are taken in groups of neighbours; a group needs one contiguous slice of keys and values. Forward stores only
its inputs; backward visits the groups again, recomputes each, and lets autograd differentiate that one group. A
relative bias for each query is taken by group as q is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from headrace.ops.arguments import is_of_queries
from headrace.reach import Band, Blocks

Tensor = torch.Tensor


class Group(NamedTuple):
    """Queries [first, end) along the frame (or block) axis, and the slice [key_first, key_end) that they may see."""

    first: int
    end: int
    key_first: int
    key_end: int


Attend = Callable[..., Tensor]  # of a group and its part of q, k, v and, where there is one, bias


def masked_softmax(scores: Tensor, seen: Tensor) -> Tensor:
    """Softmax over the last axis of the seen entries only; a row that sees nothing is uniform, never NaN."""
    return scores.masked_fill(~seen, torch.finfo(scores.dtype).min).softmax(-1)


def relative_bias(bias: Tensor, offsets: Tensor, reach: Band | Blocks) -> Tensor:
    """The bias of each key, ``offsets`` being key frames minus query frames, [..., queries, keys].

    [H, count] gives [H, *offsets.shape]; [..., queries, count], for each query, gives [..., queries, keys]. Keys out of
    reach, which are not seen, have the number of the nearest offset.
    """
    lowest, highest = reach.offsets()
    places = (offsets - lowest).clamp(0, highest - lowest)
    if is_of_queries(bias):
        return bias.gather(-1, places.expand(*bias.shape[:-1], places.shape[-1]))
    return bias[:, places]


class Blocked(torch.autograd.Function):
    """Apply ``attend`` group by group along axis 2 of q; groups cover that axis."""

    @staticmethod
    def forward(
        ctx: Any, attend: Attend, groups: list[Group], q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None
    ) -> Tensor:
        inputs = [q, k, v] if bias is None else [q, k, v, bias]
        ctx.attend, ctx.groups = attend, groups
        ctx.save_for_backward(*inputs)
        y = torch.empty(q.shape, dtype=q.dtype, device=q.device)
        for group in groups:
            y[:, :, group.first : group.end] = attend(group, *_slices(group, *inputs))
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        inputs = ctx.saved_tensors
        totals = [torch.zeros(x.shape, dtype=x.dtype, device=x.device) for x in inputs]
        for group in ctx.groups:
            with torch.enable_grad():
                parts = [x.detach().requires_grad_() for x in _slices(group, *inputs)]
                y = ctx.attend(group, *parts)
            grads = torch.autograd.grad(y, parts, grad_y[:, :, group.first : group.end])
            for total, grad in zip(_slices(group, *totals), grads, strict=True):
                total += grad
        no_bias = [None] * (4 - len(totals))
        return None, None, *totals, *no_bias


def _slices(group: Group, q: Tensor, k: Tensor, v: Tensor, *bias: Tensor) -> list[Tensor]:
    queries, keys = slice(group.first, group.end), slice(group.key_first, group.key_end)
    return [
        q[:, :, queries],
        k[:, :, keys],
        v[:, :, keys],
        *(b[:, :, queries] if is_of_queries(b) else b for b in bias),
    ]

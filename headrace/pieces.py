# SPDX-License-Identifier: Apache-2.0
"""What treats frames or chunks alone, on long audio: some at a time, so an hour needs no wide buffers of an hour."""

from __future__ import annotations

from collections.abc import Callable

import torch

FRAMES = 1024
"""At a time: their widest buffers stay in caches, and in memory that the allocator hands out again."""


def in_pieces(function: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, size: int) -> torch.Tensor:
    """function(x); without gradients, some of x at a time.

    Args:
        function: [B, ...] -> [B, ...], each result from its own item alone.
        x: [B, ...].
        size: items at a time.
    """
    if torch.is_grad_enabled() or x.shape[0] <= size:
        return function(x)
    pieces = x.split(size)
    first = function(pieces[0])
    out = first.new_empty(x.shape[0], *first.shape[1:])
    out[:size] = first
    for place, piece in zip(out.split(size)[1:], pieces[1:], strict=True):
        place.copy_(function(piece))
    return out


def by_frames(function: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """function(x) for one [..., C] -> [..., D] that treats each frame alone."""
    return in_pieces(function, x.flatten(0, -2), FRAMES).unflatten(0, x.shape[:-1])

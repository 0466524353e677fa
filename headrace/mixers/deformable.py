# SPDX-License-Identifier: Apache-2.0
"""Deformable convolution in place of attention ("soft", arXiv 2601.19960, section 3).

    y_t = b + sum_g sum_k W[g, k] x_g(t + k - 2 + o[t, g, k]),   o = L tanh(offset net)

x_g(u) is linear between frames and zero outside of the chunk of L frames, in which alone a frame looks. Then LayerNorm
and Swish. The offset net starts at zero: a plain convolution of 5 frames.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from headrace.mixers.chunks import LoneChunkMixer, rows_of
from headrace.mixers.mixer import Shape
from headrace.ops.layout import rows_past, whole_lengths
from headrace.positions import Rotation
from headrace.reach import Blocks, Reach
from headrace.streaming import Entries, Live, Span

KERNEL = 5
EDGE = KERNEL // 2  # rows of zeros at either end of a chunk: what the offset net and places see of no frame
SHORT = 64  # frames of a chunk up to which interpolation as a product is faster than fetching frames


class DeformableConvolution(LoneChunkMixer):
    """Each frame looks at KERNEL places of its chunk that it chooses; one group and one set of places a head."""

    is_tight: ClassVar[bool] = False  # places are chosen: nobody knows which before the weights do

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        width, self.groups = shape.embed_dim, shape.num_heads
        self.offsets = nn.Conv1d(width, self.groups * KERNEL, KERNEL, groups=self.groups, bias=False)
        self.conv = nn.Conv1d(width, width, KERNEL, groups=self.groups)
        self.norm = nn.LayerNorm(width)
        nn.init.zeros_(self.offsets.weight)

    def forward(
        self,
        x: torch.Tensor,
        lengths: torch.Tensor | None,
        reach: Reach,
        rotation: Rotation | None = None,
        final_only: bool = False,
    ) -> torch.Tensor:
        """See ``Mixer``; rotation and look-back do not apply."""
        self.check_reach(reach)
        rows = rows_of(x, reach, None)
        if isinstance(reach, Blocks):
            missing = None if lengths is None else rows_past(reach, rows.shape[1], lengths).flatten(0, 1)
            farthest = torch.full((), reach.hop, device=x.device)
        else:
            ends = whole_lengths(x, x.shape[1]) if lengths is None else lengths
            missing = torch.arange(x.shape[1], device=x.device) >= ends[:, None]
            farthest = ends[:, None, None]
        return self._mixed(rows.flatten(0, -3), missing, farthest).view_as(rows)

    def entries(self, reach: Reach, hop: int, first_frame: int, is_first: bool) -> Entries:
        """Live: nothing; a chunk knows itself alone."""
        return {}

    def tick(
        self,
        asked: torch.Tensor,
        x: torch.Tensor,
        span: Span,
        reach: Reach,
        rotations: tuple[Rotation, Rotation] | None,
        live: Live,
        is_first: bool = False,
        final_only: bool = False,
    ) -> torch.Tensor:
        """See ``Mixer``: the rows of one chunk."""
        assert isinstance(reach, Blocks)
        return self._mixed(x, span.missing(x.shape[1]), torch.full((), reach.hop, device=x.device))

    def _mixed(self, chunks: torch.Tensor, missing: torch.Tensor | None, farthest: torch.Tensor) -> torch.Tensor:
        """chunks: [B, L, C]; missing: [B, L] bool, rows that hold no frame; farthest: how far places may lie away."""
        if chunks.numel() == 0:
            return chunks
        assert self.conv.bias is not None
        x = F.pad(chunks.unflatten(-1, (self.groups, -1)).permute(2, 0, 1, 3), (0, 0, EDGE, EDGE))  # [G, B, L + 4, in]
        if missing is not None:
            x = x.masked_fill_(F.pad(missing, (EDGE, EDGE))[None, ..., None], 0)
        weight = self.conv.weight.unflatten(0, (self.groups, -1)).permute(0, 3, 2, 1).flatten(1, 2)  # [G, K * in, out]
        convolved = by_products if chunks.shape[1] <= SHORT else by_fetching
        y = convolved(x, self._places(x, farthest), weight).permute(1, 2, 0, 3).flatten(-2)
        return F.silu(self.norm(y + self.conv.bias))

    def _places(self, x: torch.Tensor, farthest: torch.Tensor) -> torch.Tensor:
        """[G, B, L, K], all in at least float32: in 16 bits a place far into a chunk would be frames off."""
        wide, length = torch.promote_types(x.dtype, torch.float32), x.shape[2] - 2 * EDGE
        with torch.autocast(x.device.type, enabled=False):
            net = self.offsets.weight.to(wide).unflatten(0, (self.groups, KERNEL)).permute(0, 2, 3, 1)  # [G, in, j, K]
            taps = (x.to(wide) @ net.flatten(2)[:, None]).unflatten(-1, (KERNEL, KERNEL))
            raw = sum(taps[:, :, j : j + length, j] for j in range(KERNEL))
        assert isinstance(raw, torch.Tensor)
        own = torch.arange(length, device=x.device)[:, None] + torch.arange(KERNEL, device=x.device) - KERNEL // 2
        return own + farthest * raw.tanh()


def by_products(x: torch.Tensor, places: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """What lies at each place as a product with all frames of the chunk.

    Args:
        x: [G, B, EDGE + L + EDGE, in], zero at its edges.
        places: [G, B, L, K].
        weight: [G, K * in, out].

    Returns:
        [G, B, L, out].
    """
    at, share = _around(places, x.shape[2])
    table = places.new_zeros(*places.shape, x.shape[2])
    table = table.scatter(-1, at[..., None], 1 - share[..., None]).scatter(-1, at[..., None] + 1, share[..., None])
    found = table.flatten(2, 3).to(x.dtype) @ x  # [G, B, L * K, in]
    y = found.view(x.shape[0], -1, weight.shape[1]) @ weight
    return y.view(*places.shape[:3], -1)


def by_fetching(x: torch.Tensor, places: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """The frames on either side of each place are fetched; memory linear in L. Arguments as ``by_products``."""
    at, share = _around(places, x.shape[2])
    y = x.new_zeros(())
    for tap, part in enumerate(weight.unflatten(1, (KERNEL, -1)).unbind(1)):
        value = x.new_zeros(())
        for side, much in ((0, 1 - share), (1, share)):
            index = (at[..., tap, None] + side).expand(-1, -1, -1, x.shape[-1])
            value = value + much[..., tap, None].to(x.dtype) * x.gather(2, index)
        y = y + (value.flatten(1, 2) @ part).view(*places.shape[:3], -1)
    return y


def _around(places: torch.Tensor, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The padded row below each place, and the share that the next one has; far outside, both are zeros of the edge.

    Of a place on a frame the right-hand slope counts: places start on frames, and must be able to leave them.
    """
    below = places.detach().floor()
    return (below + EDGE).clamp(0, size - 2).long(), places - below

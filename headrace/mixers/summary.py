# SPDX-License-Identifier: Apache-2.0
"""SummaryMixing (arXiv 2307.07421, section 2; in chunks 2409.07165, section 3): a mean in place of attention.

    full   y_t = c([f(x_t); mean s(x)])   f and s two layers of H diagonal blocks, c one layer
    lite   y_t = mean s(x)
    fast   y_t = c([l_t; mean m]),  [l; m] one layer of width 2 C

The mean is over the frames that exist of the chunk and of the look-back before it; each layer ends in a GELU.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from headrace.linear import Linear
from headrace.mixers.chunks import ChunkMixer, rows_of
from headrace.mixers.mixer import Shape
from headrace.ops.layout import rows_past, whole_lengths
from headrace.pieces import by_frames
from headrace.positions import Rotation
from headrace.reach import Blocks, Reach
from headrace.streaming import Entries, Entry, Live, Span

SUMMARIES = ("full", "lite", "fast")


class HeadLinear(nn.Module):
    """A linear map of H diagonal blocks: each head's features by themselves."""

    def __init__(self, embed_dim: int, num_heads: int) -> None:
        super().__init__()
        size = embed_dim // num_heads
        self.weight = nn.Parameter(torch.empty(num_heads, size, size))
        self.bias = nn.Parameter(torch.zeros(embed_dim))
        nn.init.xavier_uniform_(self.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., C] -> [..., C]."""
        rows = x.reshape(-1, *self.weight.shape[:2]).transpose(0, 1)  # [H, rows, D]
        return (rows @ self.weight).transpose(0, 1).reshape(x.shape) + self.bias


class HeadNetwork(nn.Module):
    """Two layers of diagonal blocks, a GELU behind each."""

    def __init__(self, embed_dim: int, num_heads: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = HeadLinear(embed_dim, num_heads), HeadLinear(embed_dim, num_heads)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., C] -> [..., C]."""
        return F.gelu(self.fc2(F.gelu(self.fc1(x))))


class SummaryMixing(ChunkMixer):
    """A running mean: time and memory linear in T, and live a state of one sum where the look-back is unbounded."""

    remembers_everything: ClassVar[bool] = True

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        width, self.summary = shape.embed_dim, shape.summary
        self.embed_dim = width
        if self.summary == "fast":
            self.local_and_summary = Linear(width, 2 * width)
        else:
            self.local_network = HeadNetwork(width, shape.num_heads) if self.summary == "full" else None
            self.summary_network = HeadNetwork(width, shape.num_heads)
        self.combine = Linear(2 * width, width) if self.summary != "lite" else None

    def forward(
        self,
        x: torch.Tensor,
        lengths: torch.Tensor | None,
        reach: Reach,
        rotation: Rotation | None = None,
        final_only: bool = False,
    ) -> torch.Tensor:
        """See ``Mixer``; rotation does not apply."""
        self.check_reach(reach)
        if lengths is None and x.dim() == 3:  # rows of the last chunk may hold no frame
            lengths = whole_lengths(x, x.shape[1])
        local, summary = self._parts(rows_of(x, reach, None))
        summary = rows_of(summary, reach, lengths)
        if isinstance(reach, Blocks):
            exists = _existing_rows(summary, lengths, reach)
            mean = mean_of_chunks(summary, exists, reach.hop, reach.look_back)[:, :, None]
        else:
            assert lengths is not None
            mean = (summary.sum(1, dtype=torch.float64) / lengths.clamp(min=1)[:, None]).to(x.dtype)[:, None]
        return self._combined(local, mean.expand_as(summary))

    def entries(self, reach: Reach, hop: int, first_frame: int, is_first: bool) -> Entries:
        """Live: the sum and the number of all frames before, or the summaries of as many as the look-back has."""
        assert isinstance(reach, Blocks)
        if reach.look_back is None:
            return {"sum": Entry((self.embed_dim,), dtype=torch.float64), "count": Entry((), dtype=torch.float64)}
        return {"summaries": Entry((reach.look_back, self.embed_dim))}

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
        missing = span.missing(x.shape[1])
        local, summary = self._parts(x)
        summary = summary.masked_fill(missing[..., None], 0)
        new = (~missing).sum(1)
        if reach.look_back is None:
            total = live.take("sum") + summary.sum(1, dtype=torch.float64)
            count = live.take("count") + new
            live.put("sum", total)
            live.put("count", count)
        else:
            total = live.shift("summaries", summary, 1).sum(1, dtype=torch.float64)
            count = span.first.clamp(0, reach.look_back) + new
        mean = (total / count.clamp(min=1)[:, None]).to(x.dtype)
        return self._combined(local, mean[:, None].expand_as(summary))

    def _parts(self, x: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor]:
        """What each frame keeps to itself (none for lite), and what it gives to the mean."""
        if self.summary == "fast":
            local, summary = F.gelu(self.local_and_summary(x)).chunk(2, dim=-1)
            return local, summary
        local = None if self.local_network is None else by_frames(self.local_network, x)
        return local, by_frames(self.summary_network, x)

    def _combined(self, local: torch.Tensor | None, mean: torch.Tensor) -> torch.Tensor:
        if local is None or self.combine is None:
            return mean
        combine = self.combine
        return by_frames(lambda both: F.gelu(combine(both)), torch.cat([local, mean], -1))


def _existing_rows(x: torch.Tensor, lengths: torch.Tensor | None, blocks: Blocks) -> torch.Tensor:
    """[N, P] float64: rows of each chunk that hold a frame."""
    if lengths is None:
        return torch.full(x.shape[:2], blocks.hop, dtype=torch.float64, device=x.device)
    return (~rows_past(blocks, x.shape[1], lengths)).sum(-1).double()


def mean_of_chunks(x: torch.Tensor, exists: torch.Tensor, hop: int, look_back: int | None) -> torch.Tensor:
    """The mean over each chunk and ``look_back`` frames before it.

    Args:
        x: [N, P, hop, C], zero where a row holds no frame.
        exists: [N, P] float64, how many rows of a chunk hold one.

    Returns:
        [N, P, C], in time and memory linear in P. Sums are float64: over hours a float32 sum loses frames.
    """
    sums = torch.cat([x.sum(2, dtype=torch.float64), exists[..., None]], -1)  # of a chunk, and how many they are
    if look_back is None or x.shape[1] == 0:
        total = sums.cumsum(1)
    else:
        # Not as a difference of two running sums: in its last bits every frame of the past would still be there.
        total = F.pad(sums, (0, 0, look_back // hop, 0)).unfold(1, look_back // hop + 1, 1).sum(-1)
        if rest := look_back % hop:  # of the chunk that the look-back does not hold whole
            part = x[:, :, hop - rest :].sum(2, dtype=torch.float64)
            part = torch.cat([part, torch.full_like(exists[..., None], rest)], -1)
            total = total + F.pad(part, (0, 0, look_back // hop + 1, 0))[:, : total.shape[1]]
    return (total[..., :-1] / total[..., -1:].clamp(min=1)).to(x.dtype)

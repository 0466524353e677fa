# SPDX-License-Identifier: Apache-2.0
"""The conformer's convolution (arXiv 2005.08100, section 2.2), centred, and in chunks a dynamic chunk convolution.

In chunks (2409.07165, section 3) each frame sees kernel // 2 frames before it, whatever chunk they are in, and as many
behind it as its own chunk still has: zeros stand for what lies behind the chunk's end.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from headrace.linear import Linear
from headrace.mixers.chunks import rows_of
from headrace.pieces import FRAMES, by_frames, in_pieces
from headrace.reach import Blocks, Neighbours, Reach
from headrace.streaming import Entries, Entry, Live, Span


class ConvolutionModule(nn.Module):
    """LayerNorm, pointwise to twice the width and GLU, depthwise, LayerNorm, Swish, pointwise."""

    def __init__(self, embed_dim: int, kernel: int) -> None:
        super().__init__()
        self.radius = kernel // 2
        self.norm = nn.LayerNorm(embed_dim)
        self.gate = Linear(embed_dim, 2 * embed_dim)
        self.depthwise = nn.Conv1d(embed_dim, embed_dim, kernel, groups=embed_dim)
        self.depthwise_norm = nn.LayerNorm(embed_dim)
        self.out = Linear(embed_dim, embed_dim)

    def neighbours(self, reach: Reach) -> Neighbours:
        """The frames that it sees under a reach."""
        return Neighbours(self.radius, reach.hop if isinstance(reach, Blocks) else None)

    def forward(self, x: torch.Tensor, lengths: torch.Tensor | None, reach: Reach) -> torch.Tensor:
        """x and the result: [N, T, C], or rows [N, P, hop, C] under ``Blocks``; frames past a length are not seen."""
        gated = rows_of(by_frames(self._gated, x), reach, lengths)
        if not isinstance(reach, Blocks):
            return self._after(self._convolve(F.pad(gated, (0, 0, self.radius, self.radius))))
        num_chunks, hop = gated.shape[1:3]
        if num_chunks == 0:
            return gated
        frames = F.pad(gated.flatten(1, 2), (0, 0, self.radius, 0))
        chunks = frames.unfold(1, self.radius + hop, hop).mT.flatten(0, 1)  # [N * P, radius + hop, C]
        return in_pieces(self._of_chunks, chunks, max(1, FRAMES // hop)).view(gated.shape)

    def entries(self) -> Entries:
        """Live: the frames before the next chunk that its first ones see."""
        return {"past": Entry((self.radius, self.depthwise.in_channels))}

    def tick(self, x: torch.Tensor, span: Span, live: Live) -> torch.Tensor:
        """Live: the rows [S, hop, C] of one chunk."""
        gated = self._gated(x).masked_fill(span.missing(x.shape[1])[..., None], 0)
        frames = live.shift("past", gated, 1)
        return self._of_chunks(frames)

    def _gated(self, x: torch.Tensor) -> torch.Tensor:
        return F.glu(self.gate(self.norm(x)), dim=-1)

    def _of_chunks(self, frames: torch.Tensor) -> torch.Tensor:
        """[B, radius + hop, C] -> [B, hop, C]: zeros stand for what lies behind a chunk's end."""
        return self._after(self._convolve(F.pad(frames, (0, 0, 0, self.radius))))

    def _convolve(self, x: torch.Tensor) -> torch.Tensor:
        """[B, L + 2 * radius, C] -> [B, L, C].

        In two dimensions, because torch has a depthwise convolution that takes channels last, as they lie, for those
        alone: five times as fast on a CPU as to turn them for one in one dimension.
        """
        if x.shape[0] == 0 or x.shape[1] <= 2 * self.radius:
            return x[:, 2 * self.radius :]
        image = x.unsqueeze(1).permute(0, 3, 1, 2)  # [B, C, 1, L + 2 * radius], channels last
        y = F.conv2d(image, self.depthwise.weight.unsqueeze(2), self.depthwise.bias, groups=x.shape[-1])
        return y.permute(0, 2, 3, 1).squeeze(1)

    def _after(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(F.silu(self.depthwise_norm(x)))

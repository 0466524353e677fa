# SPDX-License-Identifier: Apache-2.0
"""The conformer block (arXiv 2005.08100, section 2): feed-forward, mixer, convolution, feed-forward."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

from headrace.config import EncoderConfig
from headrace.convolution import ConvolutionModule
from headrace.linear import Linear
from headrace.mixers import MIXERS
from headrace.mixers.chunks import rows_of
from headrace.ops.layout import whole_lengths
from headrace.pieces import by_frames
from headrace.positions import Rotation
from headrace.reach import Blocks, Reach
from headrace.streaming import Entries, Live, Span, within


class FeedForward(nn.Module):
    """LayerNorm, linear, Swish, linear."""

    def __init__(self, embed_dim: int, ffn_dim: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.norm = nn.LayerNorm(embed_dim)
        self.fc1, self.fc2 = Linear(embed_dim, ffn_dim), Linear(ffn_dim, embed_dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., C] -> [..., C]."""
        return self.fc2(F.dropout(F.silu(self.fc1(self.norm(x))), self.dropout, self.training))


class ConformerBlock(nn.Module):
    """x + FFN/2, + mixer, + convolution, + FFN/2, norm: each branch with a LayerNorm of its own at its start.

    A mixer that sees no other frames (``none``) has no branch.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.ffn1 = FeedForward(config.embed_dim, config.ffn_dim, config.activation_dropout)
        self.mixer = MIXERS[config.mixer](config.mixer_shape)
        self.mixer_norm = nn.LayerNorm(config.embed_dim) if self.mixer.sees_others else None
        self.convolution = ConvolutionModule(config.embed_dim, config.conv_kernel)
        self.ffn2 = FeedForward(config.embed_dim, config.ffn_dim, config.activation_dropout)
        self.norm = nn.LayerNorm(config.embed_dim)

    def forward(
        self,
        x: torch.Tensor,
        lengths: torch.Tensor | None,
        reach: Reach,
        rotation: Rotation | None,
        final_only: bool = False,
    ) -> torch.Tensor:
        """x and the result: [N, T, C], or [N, P, hop, C] for ``Blocks``, all of whose rows are final."""
        self.mixer.check_reach(reach)
        if lengths is None and x.dim() == 3:  # rows of the last chunk may hold no frame
            lengths = whole_lengths(x, x.shape[1])
        x = rows_of(x, reach, None)
        x = self._each(lambda frames: frames + 0.5 * self._drop(self.ffn1(frames)), x)
        if self.mixer_norm is not None:
            x = x + self._drop(self.mixer(self.mixer_norm(x), lengths, reach, rotation))
        x = x + self._drop(self.convolution(x, lengths, reach))
        return self._each(lambda frames: self.norm(frames + 0.5 * self._drop(self.ffn2(frames))), x)

    def entries(self, reach: Reach, hop: int, first_frame: int, is_first: bool) -> Entries:
        """Live: what mixer and convolution keep."""
        entries = within("convolution", self.convolution.entries())
        if self.mixer_norm is not None:
            entries |= within("mixer", self.mixer.entries(reach, hop, first_frame, is_first))
        return entries

    def tick(
        self,
        x: torch.Tensor,
        span: Span,
        reach: Reach,
        rotations: tuple[Rotation, Rotation] | None,
        live: Live,
        is_first: bool = False,
        final_only: bool = False,
    ) -> torch.Tensor:
        """Live: x [S, hop, C], the rows of one chunk."""
        assert isinstance(reach, Blocks)
        x = x + 0.5 * self.ffn1(x)
        if self.mixer_norm is not None:
            normed = self.mixer_norm(x)
            x = x + self.mixer.tick(normed, normed, span, reach, rotations, live.within("mixer"))
        x = x + self.convolution.tick(x, span, live.within("convolution"))
        return self.norm(x + 0.5 * self.ffn2(x))

    def _each(self, function: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        """Of each frame alone; at once in training, where a piece would draw its dropout otherwise than the whole."""
        return function(x) if self.training else by_frames(function, x)

    def _drop(self, x: torch.Tensor) -> torch.Tensor:
        return F.dropout(x, self.dropout) if self.training else x

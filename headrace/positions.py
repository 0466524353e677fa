# SPDX-License-Identifier: Apache-2.0
"""How the encoder knows the order of frames: rotary angles, or a convolution added to the input of the first layer."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from headrace.ops.layout import read_back
from headrace.reach import Blocks
from headrace.streaming import Entries, Entry, Live

ROTARY_BASE = 10000.0


class Rotation(NamedTuple):
    """Cosines and sines of the rotary angles, [..., D/2], one row for each frame or (block, row).

    Live, [S, 1, rows, D/2]: streams are at different frames.
    """

    cos: torch.Tensor
    sin: torch.Tensor

    def first_rows(self, count: int) -> Rotation:
        """Of the first ``count`` frames, or of the first rows of each block."""
        return Rotation(self.cos[..., :count, :], self.sin[..., :count, :])

    def rows(self, first: int, count: int) -> Rotation:
        """Of ``count`` rows from ``first`` on."""
        return Rotation(*(x[..., first : first + count, :] for x in self))

    def of_frames(self, blocks: Blocks, num_frames: int) -> Rotation:
        """Of frames, from that of rows [P, hop+A, D/2]."""
        return Rotation(*(read_back(x, blocks, num_frames) for x in self))


def rotary(frames: torch.Tensor, head_dim: int, dtype: torch.dtype) -> Rotation:
    """Angles of the given frame numbers (RoFormer, arXiv 2104.09864, section 3.2). frames: int64, any shape.

    Computed in float64, so that angles are as exact at hour 10 as in the first second.
    """
    exponents = torch.arange(0, head_dim, 2, device=frames.device, dtype=torch.float64) / head_dim
    angles = frames[..., None].double() * ROTARY_BASE**-exponents
    return Rotation(angles.cos().to(dtype), angles.sin().to(dtype))


def rotate(x: torch.Tensor, rotation: Rotation) -> torch.Tensor:
    """Turn each pair (x[..., i], x[..., i + D/2]) by its angle. x: [N, H, ..., D], rotation: [..., D/2]."""
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * rotation.cos - b * rotation.sin, b * rotation.cos + a * rotation.sin], dim=-1)


class ConvolutionalPositions(nn.Module):
    """x + GELU(convolution over time of x), weight-normalised and grouped (wav2vec 2.0, section 2).

    Args:
        causal: pad on the left only, so that frame t sees t - kernel + 1 .. t. Otherwise the kernel is centred as in
            fairseq and transformers (for an even kernel, t - kernel/2 .. t + kernel/2 - 1): acausal.
    """

    def __init__(self, embed_dim: int, kernel: int, groups: int, causal: bool) -> None:
        super().__init__()
        self.left = kernel - 1 if causal else kernel // 2
        self.right = 0 if causal else kernel - 1 - kernel // 2
        self.embed_dim = embed_dim
        conv = nn.Conv1d(embed_dim, embed_dim, kernel, groups=groups)
        nn.init.normal_(conv.weight, std=math.sqrt(4 / (kernel * embed_dim)))
        nn.init.zeros_(_bias(conv))
        self.conv = parametrizations.weight_norm(conv, dim=2)

    def entries(self) -> Entries:
        """Live: the frames that the kernel covers beside the newest one."""
        assert self.right == 0, "a centred kernel waits for the future"
        return {"inputs": Entry((self.embed_dim, self.left))}

    def tick(self, x: torch.Tensor, live: Live) -> torch.Tensor:
        """Live: the next frames [S, m, C]; those that do not exist must be zero."""
        return x + F.gelu(self.conv(live.shift("inputs", x.mT, -1))).mT

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x and the result: [N, T, C]; frames past an item's length must be zero."""
        if x.shape[1] == 0:
            return x
        y = self.conv(F.pad(x.mT, (self.left, self.right)))
        return x + F.gelu(y).mT


def _bias(conv: nn.Conv1d) -> torch.Tensor:
    assert conv.bias is not None
    return conv.bias

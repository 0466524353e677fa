# SPDX-License-Identifier: Apache-2.0
"""Transformer-XL's relative positions (arXiv 1901.02860, section 3.3), as the conformers of the papers have them.

    score(i, j) = (q_i + u) . k_j + (q_i + v) . W_r r(|i - j|),  each over sqrt(D)

r is sinusoidal. The distance has no sign: the sines of SpeechBrain's table, under which the papers' encoders were
trained, are the same for past and future.
"""

from __future__ import annotations

import torch
from torch import nn

from headrace.linear import Linear
from headrace.mixers.mixer import Shape
from headrace.reach import Blocks

BASE = 10000.0


class RelativePositions(nn.Module):
    """Queries and the bias that they give each distance: what ``ops.llsa`` takes."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        head_dim = shape.embed_dim // shape.num_heads
        self.distance_proj = Linear(shape.embed_dim, shape.embed_dim, bias=False)  # W_r
        self.content_bias = nn.Parameter(torch.empty(shape.num_heads, head_dim))  # u
        self.distance_bias = nn.Parameter(torch.empty(shape.num_heads, head_dim))  # v
        for bias in (self.content_bias, self.distance_bias):
            nn.init.xavier_uniform_(bias)
        self._kept: dict[object, torch.Tensor] = {}  # not thrown out between ticks: a CUDA graph may read it

    def forward(self, q: torch.Tensor, blocks: Blocks, live: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
        """q: [N, H, ..., D] -> queries of the same shape, and a bias [N, H, ..., offsets] for each of them.

        Live, what is the same in every tick is computed once.
        """
        distances = self._kept_distances(blocks, q) if live else self._project(blocks, q)
        wanted = q + _of_heads(self.distance_bias, q)
        bias = wanted.flatten(2, -2) @ distances.mT / q.shape[-1] ** 0.5
        return q + _of_heads(self.content_bias, q), bias.unflatten(2, q.shape[2:-1])

    def train(self, mode: bool = True) -> RelativePositions:
        """torch's. What was kept is forgotten: fairseq's optimizers change weights through ``.data``, untold."""
        if mode:
            self._kept.clear()
        return super().train(mode)

    def _kept_distances(self, blocks: Blocks, like: torch.Tensor) -> torch.Tensor:
        weight = self.distance_proj.weight
        if self.training or torch.is_grad_enabled() or torch.compiler.is_compiling() or weight.is_inference():
            return self._project(blocks, like)
        key = (blocks, like.dtype, like.device, weight.data_ptr(), weight._version)
        if key not in self._kept:
            self._kept[key] = self._project(blocks, like)
        return self._kept[key]

    def _project(self, blocks: Blocks, like: torch.Tensor) -> torch.Tensor:
        """[H, offsets, D]: W_r r of the distance of each offset that the reach can see."""
        lowest, highest = blocks.offsets()
        distance = torch.arange(lowest, highest + 1, device=like.device).abs()
        width = self.distance_proj.in_features
        table = sinusoids(distance, width).to(like.dtype)
        return self.distance_proj(table).unflatten(-1, self.content_bias.shape).transpose(0, 1)


def sinusoids(distance: torch.Tensor, width: int) -> torch.Tensor:
    """[...] int64 -> [..., width] float64, sine and cosine of each frequency side by side."""
    exponents = torch.arange(0, width, 2, device=distance.device, dtype=torch.float64) / width
    angles = distance[..., None].double() * BASE**-exponents
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(-2)[..., :width]


def _of_heads(bias: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """[H, D] as it is added to q [N, H, ..., D]."""
    return bias.view(bias.shape[0], *[1] * (q.dim() - 3), bias.shape[1])

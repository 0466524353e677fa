# SPDX-License-Identifier: Apache-2.0
"""The transformer block: a mixer plus row-wise layers, which do not notice how frames are laid out."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from headrace.config import EncoderConfig
from headrace.mixers import MIXERS
from headrace.positions import Rotation
from headrace.reach import Reach


class TransformerBlock(nn.Module):
    """Mixer and feed-forward network, each with a residual and a LayerNorm before or after (``norm_first``)."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.norm_first = config.norm_first
        self.dropout, self.activation_dropout = config.dropout, config.activation_dropout
        self.mixer = MIXERS[config.mixer](config.embed_dim, config.num_heads, config.attention_dropout)
        self.mixer_norm = nn.LayerNorm(config.embed_dim)
        self.fc1 = nn.Linear(config.embed_dim, config.ffn_dim)
        self.fc2 = nn.Linear(config.ffn_dim, config.embed_dim)
        self.ffn_norm = nn.LayerNorm(config.embed_dim)

    def forward(
        self, x: torch.Tensor, lengths: torch.Tensor | None, reach: Reach, rotation: Rotation | None
    ) -> torch.Tensor:
        """x and the result: [N, T, C], or [N, P, hop+A, C] for ``Blocks``."""
        if self.norm_first:
            x = x + self._drop(self.mixer(self.mixer_norm(x), lengths, reach, rotation))
            return x + self._drop(self._feed_forward(self.ffn_norm(x)))
        x = self.mixer_norm(x + self._drop(self.mixer(x, lengths, reach, rotation)))
        return self.ffn_norm(x + self._drop(self._feed_forward(x)))

    def _feed_forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(F.dropout(F.gelu(self.fc1(x)), self.activation_dropout, self.training))

    def _drop(self, x: torch.Tensor) -> torch.Tensor:
        return F.dropout(x, self.dropout, self.training)

# SPDX-License-Identifier: Apache-2.0
"""The transformer block: a mixer plus row-wise layers, which do not notice how frames are laid out."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from headrace.config import EncoderConfig
from headrace.mixers import MIXERS
from headrace.ops.layout import lay_out
from headrace.positions import Rotation
from headrace.reach import Blocks, Reach


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
        self,
        x: torch.Tensor,
        lengths: torch.Tensor | None,
        reach: Reach,
        rotation: Rotation | None,
        final_only: bool = False,
    ) -> torch.Tensor:
        """x and the result: [N, T, C], or [N, P, hop+A, C] for ``Blocks``.

        Under ``Blocks`` the first layer takes [N, T, C], in which all rows of a frame are one, and the last layer may
        give the final rows alone (``final_only``), [N, P, hop, C]: what no one reads is not computed.
        """
        if self.norm_first:
            y = self.mixer(self.mixer_norm(x), lengths, reach, rotation, final_only)
            x = _residual(x, reach, final_only) + self._drop(y)
            return x + self._drop(self._feed_forward(self.ffn_norm(x)))
        y = self.mixer(x, lengths, reach, rotation, final_only)
        x = self.mixer_norm(_residual(x, reach, final_only) + self._drop(y))
        return self.ffn_norm(x + self._drop(self._feed_forward(x)))

    def _feed_forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(F.dropout(F.gelu(self.fc1(x)), self.activation_dropout, self.training))

    def _drop(self, x: torch.Tensor) -> torch.Tensor:
        return F.dropout(x, self.dropout, self.training)


def _residual(x: torch.Tensor, reach: Reach, final_only: bool) -> torch.Tensor:
    """The rows of x that the mixer's result is added to."""
    if not isinstance(reach, Blocks):
        return x
    rows = lay_out(x, reach) if x.dim() == 3 else x
    return rows[..., : reach.hop, :] if final_only else rows

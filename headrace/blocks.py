# SPDX-License-Identifier: Apache-2.0
"""The blocks that layers are made of: a mixer plus row-wise layers, which do not notice how frames are laid out."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from headrace.config import EncoderConfig
from headrace.conformer import ConformerBlock
from headrace.linear import Linear
from headrace.mixers import MIXERS
from headrace.ops.layout import lay_out
from headrace.positions import Rotation
from headrace.reach import Band, Blocks, Reach
from headrace.streaming import Entries, Entry, Live, Span, within


class TransformerBlock(nn.Module):
    """Mixer and feed-forward network, each with a residual and a LayerNorm before or after (``norm_first``)."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.norm_first = config.norm_first
        self.dropout, self.activation_dropout = config.dropout, config.activation_dropout
        self.mixer = MIXERS[config.mixer](config.mixer_shape)
        self.mixer_norm = nn.LayerNorm(config.embed_dim)
        self.fc1 = Linear(config.embed_dim, config.ffn_dim)
        self.fc2 = Linear(config.ffn_dim, config.embed_dim)
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
        y = self.mixer(self._norm_before(x), lengths, reach, rotation, final_only)
        return self._after_mixer(_residual(x, reach, final_only), y)

    def entries(self, reach: Reach, hop: int, first_frame: int, is_first: bool) -> Entries:
        """Live: what the mixer keeps, and under a ``Band`` the frames that wait for their look-ahead."""
        entries = within("mixer", self.mixer.entries(reach, hop, first_frame, is_first))
        if isinstance(reach, Band):
            entries["waiting"] = Entry((reach.look_ahead, self.fc1.in_features))
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
        """Live: x [S, m, C], the next frames -> those look_ahead behind them; under ``Blocks`` a block's rows.

        ``rotations``: of the frames that come out, and of those that come in. ``is_first``: of a block's rows the last
        ``hop`` alone are new.
        """
        if isinstance(reach, Band):
            asked = live.shift("waiting", x, 1)[:, : x.shape[1]]
            normed = self._norm_before(asked), self._norm_before(x)
            y = self.mixer.tick(*normed, span, reach, rotations, live.within("mixer"))
            return self._after_mixer(asked, y)
        assert isinstance(reach, Blocks)
        new = self._norm_before(x[:, -reach.hop :] if is_first else x)
        asked = new[:, : reach.hop] if final_only and not is_first else new
        y = self.mixer.tick(asked, new, span, reach, rotations, live.within("mixer"), is_first, final_only)
        return self._after_mixer(x[:, : reach.hop] if final_only else x, y)

    def _norm_before(self, x: torch.Tensor) -> torch.Tensor:
        return self.mixer_norm(x) if self.norm_first else x

    def _after_mixer(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        x = x + self._drop(y, self.dropout)
        if self.norm_first:
            return x + self._drop(self._feed_forward(self.ffn_norm(x)), self.dropout)
        x = self.mixer_norm(x)
        return self.ffn_norm(x + self._drop(self._feed_forward(x), self.dropout))

    def _feed_forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(self._drop(F.gelu(self.fc1(x)), self.activation_dropout))

    def _drop(self, x: torch.Tensor, probability: float) -> torch.Tensor:
        return F.dropout(x, probability) if self.training else x  # live, each call that does nothing counts


def _residual(x: torch.Tensor, reach: Reach, final_only: bool) -> torch.Tensor:
    """The rows of x that the mixer's result is added to."""
    if not isinstance(reach, Blocks):
        return x
    rows = lay_out(x, reach) if x.dim() == 3 else x
    return rows[..., : reach.hop, :] if final_only else rows


BLOCKS: dict[str, type[TransformerBlock | ConformerBlock]] = {
    "transformer": TransformerBlock,
    "conformer": ConformerBlock,
}

# SPDX-License-Identifier: Apache-2.0
"""What all attention mixers share: projections, heads, rotary angles; the same parameter names and shapes."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn

from headrace.linear import Linear
from headrace.ops import acausal, llsa_step, sa_step
from headrace.positions import Rotation, rotate
from headrace.reach import Band, Blocks, Everything, Reach
from headrace.streaming import Entries, Entry, Live


class Attention(nn.Module):
    """Multi-head attention; a subclass says over which frames (``attend``) and under which reaches.

    Args:
        embed_dim, num_heads: C and H; C must be a multiple of H.
        dropout: on the attention weights, in training; only where ``supports_dropout``.
    """

    reaches: ClassVar[tuple[type, ...]]
    supports_dropout: ClassVar[bool] = False

    def __init__(self, embed_dim: int, num_heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.num_heads, self.dropout = num_heads, dropout
        self.q_proj = Linear(embed_dim, embed_dim)
        self.k_proj = Linear(embed_dim, embed_dim)
        self.v_proj = Linear(embed_dim, embed_dim)
        self.out_proj = Linear(embed_dim, embed_dim)

    @staticmethod
    def reach(look_ahead: int, look_back: int | None, hop: int) -> Reach:
        """The reach that a configuration asks for."""
        raise NotImplementedError

    def forward(
        self,
        x: torch.Tensor,
        lengths: torch.Tensor | None,
        reach: Reach,
        rotation: Rotation | None = None,
        final_only: bool = False,
    ) -> torch.Tensor:
        """Mix frames. x: [N, T, C], or [N, P, hop+A, C] for ``Blocks``; lengths: [N] int64 frames. Same shape back.

        Under ``Blocks``, x may be [N, T, C], as in the first layer; the result is [N, P, hop+A, C] all the same, or the
        final rows [N, P, hop, C] with ``final_only``. ``rotation`` is for frames, or for rows under ``Blocks``.

        Raises:
            ValueError: this mixer cannot run under ``reach``.
        """
        if not isinstance(reach, self.reaches):
            names = " or ".join(kind.__name__ for kind in self.reaches)
            raise ValueError(f"{type(self).__name__} runs under {names}, got {reach}.")
        if isinstance(reach, Blocks) and x.dim() == 3 and rotation is not None:
            rotation = rotation.of_frames(reach, x.shape[1])
        asked = x[..., : reach.hop, :] if final_only and isinstance(reach, Blocks) and x.dim() == 4 else x
        q = self._split_heads(self.q_proj(asked))
        k, v = (self._split_heads(linear(x)) for linear in (self.k_proj, self.v_proj))
        if rotation is not None:
            q, k = rotate(q, rotation.first_rows(q.shape[-2])), rotate(k, rotation)
        if isinstance(reach, Everything):
            y = self._attend_everything(q, k, v, lengths)
        else:
            y = self.attend(q, k, v, lengths, reach)
        if final_only and isinstance(reach, Blocks):
            y = y[..., : reach.hop, :]
        return self.out_proj(y.movedim(1, -2).flatten(-2))

    def attend(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, lengths: torch.Tensor | None, reach: Reach
    ) -> torch.Tensor:
        """q, k, v and the result: [N, H, T, D]; under ``Blocks`` as ``ops.llsa`` has them."""
        raise NotImplementedError

    def entries(self, reach: Reach, hop: int, first_frame: int, is_first: bool) -> Entries:
        """Live: rings of keys and values, the frame that comes next, and what the first layer under ``Blocks`` keeps.

        Args:
            hop: frames of a tick.
            first_frame: that of the first new key.
            is_first: whether the rows of a frame are one, as they are below the first layer.
        """
        assert isinstance(reach, Band | Blocks) and reach.look_back is not None
        is_band = isinstance(reach, Band)
        seen = reach.look_back + (reach.look_ahead if is_band else 0)
        ring = Entry((self.num_heads, seen + hop, self.q_proj.out_features // self.num_heads))
        entries = {"keys": ring, "values": ring, "next_frame": Entry((), first_frame, torch.int64)}
        if is_first and not is_band:
            line = Entry((ring.shape[0], reach.look_ahead, ring.shape[2]))
            entries |= dict.fromkeys(("row_queries", "row_keys", "row_values"), line)
        return entries

    def tick(
        self,
        asked: torch.Tensor,
        x: torch.Tensor,
        lengths: torch.Tensor,
        reach: Reach,
        rotations: tuple[Rotation, Rotation] | None,
        live: Live,
        is_first: bool = False,
        final_only: bool = False,
    ) -> torch.Tensor:
        """Live: the frames or rows ``asked`` attend.

        Args:
            asked: [S, m, C]; under a ``Band`` look_ahead frames behind x, under ``Blocks`` the block's rows.
            x: [S, m, C], the new frames, or the block's rows.
            lengths: [S] int64.
            rotations: of asked and of x.
            is_first: asked and x hold the new frames alone, and the block's other rows were projected before.
            final_only: give the block's final rows alone.
        """
        q, k, v = (
            self._split_heads(linear(rows))
            for linear, rows in ((self.q_proj, asked), (self.k_proj, x), (self.v_proj, x))
        )
        if rotations is not None:
            q, k = rotate(q, rotations[0]), rotate(k, rotations[1])
        if is_first and isinstance(reach, Blocks):
            q, k, v = (
                live.shift(name, rows, 2) for name, rows in (("row_queries", q), ("row_keys", k), ("row_values", v))
            )
        state = (live.whole("keys"), live.whole("values"), live.whole("next_frame"), live.slots)
        if isinstance(reach, Blocks):
            y = llsa_step(q[:, :, : reach.hop] if final_only else q, k, v, *state, reach, lengths)
        else:
            assert isinstance(reach, Band)
            y = sa_step(q, k, v, *state, reach, lengths)
        return self.out_proj(y.movedim(1, -2).flatten(-2))

    def _attend_everything(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, lengths: torch.Tensor | None
    ) -> torch.Tensor:
        return acausal(q, k, v, lengths, dropout=self.dropout if self.training else 0.0)

    def _split_heads(self, x: torch.Tensor) -> torch.Tensor:
        """[N, ..., C] -> [N, H, ..., D]."""
        return x.unflatten(-1, (self.num_heads, -1)).movedim(-2, 1)

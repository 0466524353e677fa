# SPDX-License-Identifier: Apache-2.0
"""What all attention mixers share: projections, heads, rotary angles; the same parameter names and shapes."""

from __future__ import annotations

import torch

from headrace.linear import Linear
from headrace.mixers.mixer import Mixer, Shape
from headrace.ops import acausal, llsa_step, sa_step
from headrace.positions import Rotation, rotate
from headrace.reach import Band, Blocks, Everything, Reach
from headrace.streaming import Entries, Entry, Live, Span


class Attention(Mixer):
    """Multi-head attention; a subclass says over which frames (``attend``) and under which reaches."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.num_heads, self.dropout = shape.num_heads, shape.attention_dropout
        # Transformer-XL's distances come with a bias of their own, and without those of the projections
        has_bias = shape.positions != "relative"
        self.q_proj = Linear(shape.embed_dim, shape.embed_dim, has_bias)
        self.k_proj = Linear(shape.embed_dim, shape.embed_dim, has_bias)
        self.v_proj = Linear(shape.embed_dim, shape.embed_dim, has_bias)
        self.out_proj = Linear(shape.embed_dim, shape.embed_dim)

    def forward(
        self,
        x: torch.Tensor,
        lengths: torch.Tensor | None,
        reach: Reach,
        rotation: Rotation | None = None,
        final_only: bool = False,
    ) -> torch.Tensor:
        """See ``Mixer``."""
        self.check_reach(reach)
        if isinstance(reach, Blocks) and x.dim() == 3 and rotation is not None:
            rotation = rotation.of_frames(reach, x.shape[1])
        asked = x[..., : reach.hop, :] if final_only and isinstance(reach, Blocks) and x.dim() == 4 else x
        q = self._split_heads(self.q_proj(asked))
        k, v = (self._split_heads(linear(x)) for linear in (self.k_proj, self.v_proj))
        if rotation is not None:
            q, k = rotate(q, rotation.first_rows(q.shape[-2])), rotate(k, rotation)
        y = self.attend(q, k, v, lengths, reach)
        if final_only and isinstance(reach, Blocks):
            y = y[..., : reach.hop, :]
        return self.out_proj(y.movedim(1, -2).flatten(-2))

    def attend(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, lengths: torch.Tensor | None, reach: Reach
    ) -> torch.Tensor:
        """q, k, v and the result: [N, H, T, D]; under ``Blocks`` as ``ops.llsa`` has them."""
        if isinstance(reach, Everything):
            return acausal(q, k, v, lengths, dropout=self.dropout if self.training else 0.0)
        return self.attend_within(q, k, v, lengths, reach)

    def attend_within(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, lengths: torch.Tensor | None, reach: Reach
    ) -> torch.Tensor:
        """As ``attend``, under a ``Band`` or ``Blocks``."""
        raise NotImplementedError

    def entries(self, reach: Reach, hop: int, first_frame: int, is_first: bool) -> Entries:
        """Live: rings of keys and values, the next frame, and what the first layer under ``Blocks`` keeps."""
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
        span: Span,
        reach: Reach,
        rotations: tuple[Rotation, Rotation] | None,
        live: Live,
        is_first: bool = False,
        final_only: bool = False,
    ) -> torch.Tensor:
        """See ``Mixer``."""
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
        if isinstance(reach, Blocks) and final_only:
            q = q[:, :, : reach.hop]
        y = self.attend_live(q, k, v, span.lengths, reach, live)
        return self.out_proj(y.movedim(1, -2).flatten(-2))

    def attend_live(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, lengths: torch.Tensor, reach: Reach, live: Live
    ) -> torch.Tensor:
        """Live: q, k, v and the result [S, H, m, D], of a tick's frames or of a block's rows."""
        state = (live.whole("keys"), live.whole("values"), live.whole("next_frame"), live.slots)
        if isinstance(reach, Blocks):
            return llsa_step(q, k, v, *state, reach, lengths)
        assert isinstance(reach, Band)
        return sa_step(q, k, v, *state, reach, lengths)

    def _split_heads(self, x: torch.Tensor) -> torch.Tensor:
        """[N, ..., C] -> [N, H, ..., D]."""
        return x.unflatten(-1, (self.num_heads, -1)).movedim(-2, 1)

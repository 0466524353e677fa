# SPDX-License-Identifier: Apache-2.0
"""Attention inside chunks, with left context (arXiv 2601.19960, section 2; 2409.07165, section 3)."""

from __future__ import annotations

from dataclasses import replace

import torch

from headrace import ops
from headrace.mixers.attention import Attention
from headrace.mixers.chunks import ChunkMixer
from headrace.mixers.mixer import Shape
from headrace.mixers.relative import RelativePositions
from headrace.ops.layout import lay_out, read_back, whole_lengths
from headrace.reach import Blocks, Everything, Reach
from headrace.streaming import Live


class ChunkedAttention(Attention, ChunkMixer):
    """Each frame sees its chunk and the look-back before it; rotary or relative positions.

    Relative positions have a number for each query and each distance that it can see: with an unbounded look-back, and
    for whole utterances, memory grows with the square of T.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape)
        self.relative = RelativePositions(shape) if shape.positions == "relative" else None

    def attend(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, lengths: torch.Tensor | None, reach: Reach
    ) -> torch.Tensor:
        """q, k, v and the result: as ``ops.llsa`` has them; [N, H, T, D] under ``Everything``."""
        if self.relative is None or not isinstance(reach, Everything):
            return super().attend(q, k, v, lengths, reach)
        num_frames = q.shape[2]  # one chunk that holds everything
        whole = Blocks(0, 0, max(1, num_frames), per_block=True)
        q, k, v = (lay_out(x, whole) for x in (q, k, v))
        y = self.attend_within(q, k, v, lengths, whole)
        return read_back(y, whole, num_frames)

    def attend_within(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, lengths: torch.Tensor | None, reach: Reach
    ) -> torch.Tensor:
        """q, k, v and the result: as ``ops.llsa`` has them."""
        assert isinstance(reach, Blocks)
        if self.relative is None:
            return ops.llsa(q, k, v, reach, lengths)
        if q.dim() == 4:
            lengths = whole_lengths(q, q.shape[2]) if lengths is None else lengths
            q, k, v = (lay_out(x, reach) for x in (q, k, v))
        most = max(0, q.shape[2] - 1) * reach.hop  # all there is: a bias for what no frame sees would be computed, too
        if reach.look_back is None or reach.look_back > most:
            reach = replace(reach, look_back=most)
        queries, bias = self.relative(q, reach)
        return ops.llsa(queries, k, v, reach, lengths, bias)

    def attend_live(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, lengths: torch.Tensor, reach: Reach, live: Live
    ) -> torch.Tensor:
        """See ``Attention``."""
        if self.relative is None:
            return super().attend_live(q, k, v, lengths, reach, live)
        assert isinstance(reach, Blocks)
        queries, bias = self.relative(q, reach, live=True)
        state = (live.whole("keys"), live.whole("values"), live.whole("next_frame"), live.slots)
        return ops.llsa_step(queries, k, v, *state, reach, lengths, bias)

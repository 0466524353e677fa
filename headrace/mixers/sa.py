# SPDX-License-Identifier: Apache-2.0
"""Streaming attention (SA, arXiv 2302.13451, section 3.1)."""

from __future__ import annotations

from typing import ClassVar

import torch

from headrace import ops
from headrace.mixers.attention import Attention
from headrace.reach import Band, Everything, Reach


class StreamingAttention(Attention):
    """Each frame sees a band; the look-ahead adds up over the layers."""

    reaches: ClassVar[tuple[type, ...]] = (Band, Everything)

    @staticmethod
    def reach(look_ahead: int, look_back: int | None, hop: int | None) -> Reach:
        """A band; hop does not apply."""
        return Band(look_ahead, look_back)

    def attend_within(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, lengths: torch.Tensor | None, reach: Reach
    ) -> torch.Tensor:
        """q, k, v and the result: [N, H, T, D]."""
        assert isinstance(reach, Band)
        return ops.sa(q, k, v, reach, lengths)

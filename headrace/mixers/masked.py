# SPDX-License-Identifier: Apache-2.0
"""Masked acausal attention (MAA): T x T scores, then the band mask (arXiv 2302.13451, section 2.2)."""

from __future__ import annotations

from typing import ClassVar

import torch

from headrace.mixers.attention import Attention
from headrace.ops import masked
from headrace.reach import Band, Everything, Reach


class MaskedAttention(Attention):
    """The same function as ``sa`` at the cost of ``full``: exists to be measured against."""

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
        return masked(q, k, v, reach, lengths)

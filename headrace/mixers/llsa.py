# SPDX-License-Identifier: Apache-2.0
"""Low-latency streaming attention (LLSA, arXiv 2302.13451, section 4)."""

from __future__ import annotations

from typing import ClassVar

import torch

from headrace import ops
from headrace.mixers.attention import Attention
from headrace.reach import Blocks, Everything, Reach


class LowLatencyStreamingAttention(Attention):
    """Each block sees look_ahead provisional frames; the latency is one layer's at any depth."""

    reaches: ClassVar[tuple[type, ...]] = (Blocks, Everything)

    @staticmethod
    def reach(look_ahead: int, look_back: int | None, hop: int | None) -> Reach:
        """Blocks of ``hop`` frames."""
        if hop is None:
            raise ValueError("hop must be a whole number of frames >= 1 for llsa, got None; 'full' sees everything.")
        return Blocks(look_ahead, look_back, hop)

    def attend_within(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, lengths: torch.Tensor | None, reach: Reach
    ) -> torch.Tensor:
        """q, k, v and the result: as ``ops.llsa`` has them."""
        assert isinstance(reach, Blocks)
        return ops.llsa(q, k, v, reach, lengths)

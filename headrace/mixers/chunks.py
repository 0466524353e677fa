# SPDX-License-Identifier: Apache-2.0
"""What the mixers of strict chunks share: which reaches they have, and rows in which nothing stands for no frame."""

from __future__ import annotations

from typing import ClassVar

import torch

from headrace.mixers.mixer import Mixer
from headrace.ops.layout import lay_out, rows_past
from headrace.reach import Blocks, Everything, Reach


class ChunkMixer(Mixer):
    """Frames of a chunk see the whole chunk, and as much before it as the look-back, counted from its start."""

    reaches: ClassVar[tuple[type, ...]] = (Blocks, Everything)
    in_conformer: ClassVar[bool] = True

    @staticmethod
    def reach(look_ahead: int, look_back: int | None, hop: int | None) -> Reach:
        """Chunks of ``hop`` frames, or the whole utterance; look-ahead does not apply."""
        return Everything() if hop is None else Blocks(0, look_back, hop, per_block=True)

    def check_reach(self, reach: Reach) -> None:
        """Raise ValueError where this mixer cannot run under ``reach``."""
        super().check_reach(reach)
        if isinstance(reach, Blocks) and (reach.look_ahead or not (reach.per_block or reach.look_back is None)):
            raise ValueError(
                f"{type(self).__name__} runs in chunks, Blocks(look_ahead=0, look_back, hop, per_block=True), "
                f"got {reach}."
            )


class LoneChunkMixer(ChunkMixer):
    """Frames of a chunk see nothing outside of it: a look-back does not apply."""

    remembers_everything: ClassVar[bool] = True

    @staticmethod
    def reach(look_ahead: int, look_back: int | None, hop: int | None) -> Reach:
        """Chunks of ``hop`` frames alone, or the whole utterance."""
        return Everything() if hop is None else Blocks(0, 0, hop, per_block=True)


def rows_of(x: torch.Tensor, reach: Reach, lengths: torch.Tensor | None) -> torch.Tensor:
    """[N, T, C] or [N, P, hop, C] -> the rows of ``reach``, zero where they hold no frame of the item."""
    if isinstance(reach, Blocks):
        x = lay_out(x, reach) if x.dim() == 3 else x
        past = None if lengths is None else rows_past(reach, x.shape[1], lengths)
    else:
        past = None if lengths is None else torch.arange(x.shape[1], device=x.device) >= lengths[:, None]
    return x if past is None else x.masked_fill(past[..., None], 0)

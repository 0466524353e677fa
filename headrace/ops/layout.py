# SPDX-License-Identifier: Apache-2.0
"""The anchor-major layout that every row-wise layer of a ``Blocks`` encoder works in (DESIGN.md section 4).

Block b, row r holds frame b * hop + r as it is known when block b is emitted: the first ``hop`` rows are final, the
other ``look_ahead`` rows are provisional. For hop = 1, row [t, i] is the paper's frame t + i in channel A - i.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

from headrace.reach import Blocks


def whole_lengths(x: torch.Tensor, num_frames: int) -> torch.Tensor:
    """[N] int64, on the device of x [N, ...]: the lengths of items that all have ``num_frames`` frames."""
    return torch.full(x.shape[:1], num_frames, dtype=torch.int64, device=x.device)


def num_blocks(num_frames: int, blocks: Blocks) -> int:
    """Blocks that cover ``num_frames`` frames."""
    return -(-num_frames // blocks.hop)


def lay_out(x: torch.Tensor, blocks: Blocks) -> torch.Tensor:
    """[..., T, C] -> [..., ceil(T / hop), hop + A, C], a view of x padded with zeros on the right."""
    count = num_blocks(x.shape[-2], blocks)
    padded = F.pad(x, (0, 0, 0, count * blocks.hop + blocks.look_ahead - x.shape[-2]))
    if count == 0:
        return x.new_zeros(*x.shape[:-2], 0, blocks.rows, x.shape[-1])
    return padded.unfold(-2, blocks.rows, blocks.hop).transpose(-1, -2)


def read_back(rows: torch.Tensor, blocks: Blocks, num_frames: int) -> torch.Tensor:
    """[..., ceil(T / hop), hop + A, C] -> [..., T, C]: the final rows."""
    return rows[..., : blocks.hop, :].flatten(-3, -2)[..., :num_frames, :]


def row_frames(blocks: Blocks, count: int, device: torch.device) -> torch.Tensor:
    """[count, hop + A] int64: the frame that each row holds."""
    anchors = torch.arange(count, device=device) * blocks.hop
    return anchors[:, None] + torch.arange(blocks.rows, device=device)


def rows_past(blocks: Blocks, count: int, lengths: torch.Tensor) -> torch.Tensor:
    """[N, count, hop + A] bool: whether a row holds a frame behind its item's end. lengths: [N] int64."""
    return row_frames(blocks, count, lengths.device) >= lengths[:, None, None]

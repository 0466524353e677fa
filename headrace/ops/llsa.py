# SPDX-License-Identifier: Apache-2.0
"""Low-latency streaming attention (LLSA) in anchor-major layout: the latency of one layer at any depth."""

from __future__ import annotations

from functools import partial

import torch

from headrace.ops import blocked, native
from headrace.ops.arguments import (
    at_autocast_dtype,
    check_bias,
    check_features,
    check_lengths,
    check_qkv,
    is_of_queries,
)
from headrace.ops.backend import runs_native
from headrace.ops.layout import lay_out, row_frames, whole_lengths
from headrace.reach import Blocks


def llsa(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    blocks: Blocks,
    lengths: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
) -> torch.Tensor:
    """Attend each row of each block to the final rows of earlier blocks and to the rows of its own block.

    Row (b, r), frame f = b*hop + r, sees the final rows of frames f-B .. b*hop-1 and, from frame f-B on, all rows of
    its own block. For hop = 1 this is the paper's rule: query (t, c) sees frames s in [t-B, t+c], frame s in channel
    min(t+c-s, A) (arXiv 2302.13451, section 4). Laying out and reading back: ``ops.layout``.

    Args:
        q, k, v: [N, H, P, hop+A, D] with P = ceil(T / hop) blocks, one dtype (fp32, bf16, fp16, fp64) and device, any
            strides; D at most 128. In the first layer they may be [N, H, T, D]: all rows of a frame are one there. In
            the last, where final rows alone are wanted, q may be [N, H, P, hop, D].
        blocks: who sees whom; A = blocks.look_ahead, B = blocks.look_back.
        lengths: [N] int64, valid frames per item, 0 .. P*hop (the default); rows past it are zero, unseen.
        bias: [H, offsets] learned relative bias over key frame minus query frame (``blocks.offsets()``; A+B+1 wide for
            hop = 1); needs a bounded look-back. Or one for each query, [N, H, P, R, offsets] with the R rows of q, any
            strides, as in Transformer-XL, whose scores q.k + (q+v).r have a part that depends on query and distance;
            not for q [N, H, T, D]. On a GPU the torch path computes with it. Of q's dtype, or the one that is
            computed in.

    Returns:
        Shape, dtype and strides of q. The softmax is computed in fp32 (fp64 for fp64).

    Raises:
        ValueError: naming the argument, what was expected and what came.

    Memory linear in T, forward and backward. Oracle: ``ops.reference.llsa``.
    """
    q, k, v = at_autocast_dtype(q, k, v)
    if q.dim() == 4 and isinstance(blocks, Blocks):
        return _first_layer(q, k, v, blocks, lengths, bias)
    if not isinstance(blocks, Blocks):
        raise ValueError(f"llsa: blocks must be Blocks(look_ahead, look_back, hop), got {blocks!r}.")
    check_qkv("llsa", q, k, v, "N, H, P, hop+A, D", key_rows=blocks.rows)
    check_features("llsa", q)
    if q.shape[3] not in (blocks.rows, blocks.hop):
        raise ValueError(
            f"llsa: q must have hop + look_ahead = {blocks.rows} rows a block, or the {blocks.hop} final ones, got "
            f"{q.shape[3]}."
        )
    check_lengths("llsa", lengths, q, q.shape[2] * blocks.hop)
    check_bias("llsa", bias, q, blocks, {"H": (q.shape[1],), "N, H, P, R": q.shape[:4]})
    if runs_native(q, bias):
        return native.llsa(q, k, v, blocks, lengths, bias)
    if lengths is None:
        lengths = whole_lengths(q, q.shape[2] * blocks.hop)
    lengths = lengths.clamp(0, q.shape[2] * blocks.hop)  # unchecked where they live on a GPU
    return blocked.Blocked.apply(partial(_attend, blocks, lengths), _groups(q.shape[2], blocks), q, k, v, bias)


def _first_layer(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    blocks: Blocks,
    lengths: torch.Tensor | None,
    bias: torch.Tensor | None,
) -> torch.Tensor:
    """q, k, v: [N, H, T, D]: laid out as views, but where kernels take them as they are."""
    check_qkv("llsa", q, k, v, "N, H, T, D")
    check_features("llsa", q)
    check_lengths("llsa", lengths, q, q.shape[2])
    if bias is not None and is_of_queries(bias):
        raise ValueError(
            f"llsa: bias for each query, here {tuple(bias.shape)}, goes with q as [N, H, P, R, D], got q "
            f"{tuple(q.shape)}: [N, H, T, D], of the first layer. Lay out q, k and v (headrace.ops.layout.lay_out), or "
            "give a bias [H, offsets]."
        )
    check_bias("llsa", bias, q, blocks)
    if runs_native(q) and q.device.type == "cpu" and not blocks.per_block:
        return native.llsa_first_layer(q, k, v, blocks, lengths, bias)
    if lengths is None and q.shape[2] % blocks.hop:
        lengths = whole_lengths(q, q.shape[2])
    return llsa(lay_out(q, blocks), lay_out(k, blocks), lay_out(v, blocks), blocks, lengths, bias)


def _groups(count: int, blocks: Blocks) -> list[blocked.Group]:
    """Groups of blocks that span about 64 frames; keys start at the block that holds the oldest frame seen."""
    size = max(1, 64 // blocks.hop)
    starts = range(0, count, size)
    return [
        blocked.Group(start, end := min(start + size, count), blocks.first(start * blocks.hop) // blocks.hop, end)
        for start in starts
    ]


def _attend(
    blocks: Blocks,
    lengths: torch.Tensor,
    group: blocked.Group,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    bias: torch.Tensor | None = None,
) -> torch.Tensor:
    """One group: q [N, H, G, R or hop, D]; k, v [N, H, W, R, D], of which the last G blocks are the group's own."""
    size, hop = group.end - group.first, blocks.hop
    f = row_frames(blocks, group.end, q.device)[group.first :]  # [G, R]
    own = f[:, None, :]  # [G, 1, R], frames of the block's own rows
    f = f[:, : q.shape[3]]
    past = torch.arange(group.key_first * hop, group.end * hop, device=q.device)  # frames of the final rows
    anchors = f[:, :1, None]
    valid = lengths[:, None, None, None, None]
    exists = f[:, :, None] < valid

    sees_past = (past < anchors) & (past < valid)
    sees_own = own < valid
    if blocks.look_back is not None:
        oldest = (anchors if blocks.per_block else f[:, :, None]) - blocks.look_back
        sees_past, sees_own = sees_past & (past >= oldest), sees_own & (own >= oldest)
    seen = torch.cat(
        [sees_past.expand(-1, -1, size, f.shape[1], -1), sees_own.expand(-1, -1, size, f.shape[1], -1)], -1
    )
    seen = seen & exists  # whatever their bias holds

    wide = torch.promote_types(q.dtype, torch.float32)
    q_wide = q.to(wide)
    k_past, v_past = (_final(x.to(wide), hop, past, lengths) for x in (k, v))
    k_own, v_own = (x[:, :, -size:].to(wide).masked_fill(own.mT >= valid, 0) for x in (k, v))
    scores = torch.cat([q_wide.flatten(2, 3) @ k_past.mT, (q_wide @ k_own.mT).flatten(2, 3)], -1).unflatten(
        2, (size, -1)
    )
    scores = scores / q.shape[-1] ** 0.5
    if bias is not None:
        keys = torch.cat([past.expand(size, 1, -1), own], -1)
        scores = scores + blocked.relative_bias(bias.to(wide), keys - f[:, :, None], blocks)
    p_past, p_own = blocked.masked_softmax(scores, seen).split([len(past), blocks.rows], -1)
    y = (p_past.flatten(2, 3) @ v_past).unflatten(2, (size, -1)) + p_own @ v_own
    return y.to(q.dtype).masked_fill(~exists, 0)


def _final(x: torch.Tensor, hop: int, frames: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """[N, H, W, R, D] -> [N, H, W*hop, D]: the final rows, zero past the length."""
    return x[..., :hop, :].flatten(2, 3).masked_fill(frames[:, None] >= lengths[:, None, None, None], 0)

# SPDX-License-Identifier: Apache-2.0
"""Streaming attention (SA): each frame attends to a band of look-back and look-ahead frames."""

from __future__ import annotations

from functools import partial

import torch

from headrace.ops import blocked, native
from headrace.ops.arguments import at_autocast_dtype, check_bias, check_features, check_lengths, check_qkv
from headrace.ops.backend import runs_native
from headrace.reach import Band


def sa(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    band: Band,
    lengths: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
) -> torch.Tensor:
    """Attend each frame to its band of frames only.

    y[n,h,t] = sum_s softmax_s(q[n,h,t] . k[n,h,s] / sqrt(D) + bias[h, s-t+B]) v[n,h,s],  s in [t-B, t+A]
    (arXiv 2302.13451, section 3.1), A = band.look_ahead, B = band.look_back.

    Args:
        q, k, v: [N, H, T, D], one dtype (fp32, bf16, fp16, fp64) and device, any strides; D at most 128.
        band: who sees whom.
        lengths: [N] int64, valid frames per item, 0 .. T. Frames past the length are zero and unseen.
        bias: [H, A+B+1], learned relative bias; needs a bounded look-back.

    Returns:
        [N, H, T, D], dtype and strides of q. The softmax is computed in fp32 (fp64 for fp64).

    Raises:
        ValueError: naming the argument, what was expected and what came.

    Time O(N H T (A+B+1) D); memory linear in T, forward and backward. Oracle: ``ops.reference.sa``.
    """
    q, k, v = at_autocast_dtype(q, k, v)
    check_qkv("sa", q, k, v, "N, H, T, D")
    check_features("sa", q)
    if not isinstance(band, Band):
        raise ValueError(f"sa: band must be a Band(look_ahead, look_back), got {band!r}.")
    check_lengths("sa", lengths, q, q.shape[2])
    check_bias("sa", bias, q, band)
    if runs_native(q):
        return native.sa(q, k, v, band, lengths, bias)
    return blocked.Blocked.apply(partial(_attend, band, lengths), _groups(q.shape[2], band), q, k, v, bias)


def _groups(num_frames: int, band: Band) -> list[blocked.Group]:
    """Groups about half as long as the window: the keys that a group loads and does not use stay under a half."""
    size = 256 if band.look_back is None else min(max((band.look_ahead + band.look_back) // 2, 32), 256)
    starts = range(0, num_frames, size)
    ends = (min(start + size, num_frames) for start in starts)
    return [
        blocked.Group(start, end, band.first(start), min(end + band.look_ahead, num_frames))
        for start, end in zip(starts, ends, strict=True)
    ]


def _attend(
    band: Band,
    lengths: torch.Tensor | None,
    group: blocked.Group,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    bias: torch.Tensor | None = None,
) -> torch.Tensor:
    """One group: q [N, H, M, D] over k, v [N, H, W, D]."""
    t = torch.arange(group.first, group.end, device=q.device)[:, None]
    s = torch.arange(group.key_first, group.key_end, device=q.device)[None, :]
    seen = s <= t + band.look_ahead
    if band.look_back is not None:
        seen = seen & (s >= t - band.look_back)
    if lengths is not None:
        valid = lengths[:, None, None, None]
        seen = seen & (s < valid)
        v = v.masked_fill(s.mT >= valid, 0)
        k = k.masked_fill(s.mT >= valid, 0)
    wide = torch.promote_types(q.dtype, torch.float32)
    scores = q.to(wide) @ k.to(wide).mT / q.shape[-1] ** 0.5
    if bias is not None:
        scores = scores + blocked.relative_bias(bias.to(wide), s - t, band)
    y = (blocked.masked_softmax(scores, seen) @ v.to(wide)).to(q.dtype)
    return y if lengths is None else y.masked_fill(t >= lengths[:, None, None, None], 0)

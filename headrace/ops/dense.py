# SPDX-License-Identifier: Apache-2.0
"""Attention over the whole utterance, acausal (AA) or with the full T x T scores masked afterwards (MAA)."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from headrace.ops.arguments import check_lengths, check_qkv
from headrace.ops.blocked import masked_softmax
from headrace.reach import Band


def acausal(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    lengths: torch.Tensor | None = None,
    dropout: float = 0.0,
) -> torch.Tensor:
    """Every frame sees every frame of its utterance. q, k, v, result: [N, H, T, D]; lengths: [N] int64.

    ``dropout`` acts on the attention weights. Frames past the length are zero and unseen.

    Raises:
        ValueError: naming the argument, what was expected and what came.
    """
    check_qkv("acausal", q, k, v, "N, H, T, D")
    check_lengths("acausal", lengths, q, q.shape[2])
    if lengths is None:
        return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)
    past = torch.arange(q.shape[2], device=q.device) >= lengths[:, None]  # [N, T]
    k, v = (x.masked_fill(past[:, None, :, None], 0) for x in (k, v))
    # A query past the length still sees frame 0, so that its row (zeroed below) is never a softmax over nothing.
    seen = ~past
    if seen.shape[1]:
        seen = seen | (torch.arange(q.shape[2], device=q.device) == 0)
    y = F.scaled_dot_product_attention(q, k, v, attn_mask=seen[:, None, None, :], dropout_p=dropout)
    return y.masked_fill(past[:, None, :, None], 0)


def masked(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, band: Band, lengths: torch.Tensor | None = None
) -> torch.Tensor:
    """Masked acausal attention (MAA, arXiv 2302.13451, section 2.2): all T x T scores, then the band mask.

    Equals ``sa`` to rounding and exists to be measured against it. q, k, v, result: [N, H, T, D]; lengths: [N] int64.

    Raises:
        ValueError: naming the argument, what was expected and what came.
    """
    check_qkv("masked", q, k, v, "N, H, T, D")
    check_lengths("masked", lengths, q, q.shape[2])
    frames = torch.arange(q.shape[2], device=q.device)
    t, s = frames[:, None], frames[None, :]
    seen = s <= t + band.look_ahead
    if band.look_back is not None:
        seen = seen & (s >= t - band.look_back)
    wide = torch.promote_types(q.dtype, torch.float32)
    scores = q.to(wide) @ k.to(wide).mT / q.shape[-1] ** 0.5
    if lengths is None:
        return (masked_softmax(scores, seen) @ v.to(wide)).to(q.dtype)
    valid = lengths[:, None, None, None]
    v = v.masked_fill(t >= valid, 0)
    y = masked_softmax(scores, seen & (s < valid)) @ v.to(wide)
    return y.to(q.dtype).masked_fill(t >= valid, 0)

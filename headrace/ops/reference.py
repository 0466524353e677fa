# SPDX-License-Identifier: Apache-2.0
"""What the operations mean: the formulas of the paper, one query at a time, in the paper's symbols.

Never optimised and never called by the fast paths; tests compare everything else with it, in float64.

    SA    y[t]    = sum_s p_s v[s],  p = softmax_s(q[t] . k[s] / sqrt(D) + bias[s - t + B]),  s in [t - B, t + A]
    LLSA  y[t, c] = sum_s p_s v[s, e],  p = softmax_s(q[t, c] . k[s, e] / sqrt(D) + ...),  s in [t - B, t + c],
                    e = min(t + c - s, A)

A bias for each query [N, H, P, R, offsets] has the query's own row [H, offsets] in place of the one that all share.

Sources: arXiv 2302.13451, section 3.1 (SA) and section 4 (LLSA); the second in anchor-major layout, for any hop.
"""

from __future__ import annotations

import torch

from headrace.reach import Band, Blocks


def _attend(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    frame: int,
    seen: list[int],
    bias: torch.Tensor | None,
    lowest: int,
) -> torch.Tensor:
    """One query [H, D] of ``frame`` over keys and values [H, S, D] of the frames ``seen``; bias [H, offsets]."""
    z = torch.einsum("hd,hsd->hs", q, k) / q.shape[-1] ** 0.5
    if bias is not None:
        z = z + bias[:, [s - frame - lowest for s in seen]]
    return torch.einsum("hs,hsd->hd", z.softmax(-1), v)


def sa(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    band: Band,
    lengths: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
) -> torch.Tensor:
    """Streaming attention, literally. Shapes and arguments as in ``headrace.ops.sa``."""
    N, _, T, _ = q.shape
    lowest = 0 if bias is None else band.offsets()[0]
    y = torch.zeros_like(v)
    for n in range(N):
        length = T if lengths is None else int(lengths[n].clamp(0, T))
        for t in range(length):
            seen = [s for s in range(length) if band.first(t) <= s <= t + band.look_ahead]
            y[n, :, t] = _attend(q[n, :, t], k[n, :, seen], v[n, :, seen], t, seen, bias, lowest)
    return y


def llsa(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    blocks: Blocks,
    lengths: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
) -> torch.Tensor:
    """Low-latency streaming attention, literally. Shapes and arguments as in ``headrace.ops.llsa``."""
    N, _, P, R, _ = q.shape  # R = hop where only the final rows are asked for
    A, B, hop = blocks.look_ahead, blocks.look_back, blocks.hop
    lowest = 0 if bias is None else blocks.offsets()[0]
    y = torch.zeros_like(q)
    if y.numel() == 0:
        return y
    items = []
    for n in range(N):
        length = P * hop if lengths is None else int(lengths[n].clamp(0, P * hop))
        queries, keys, values = (_rows(x[n]) for x in (q, k, v))
        biases = _rows(bias[n]) if bias is not None and bias.dim() == q.dim() else [(bias,) * R] * P
        rows = []
        for b in range(P):
            for r in range(R):
                frame = b * hop + r
                if frame >= length:
                    rows.append(y[n, :, b, r])
                    continue
                start = b * hop if blocks.per_block else frame
                oldest = 0 if B is None else max(0, start - B)
                # Earlier frames are final: row s % hop of their own block. The block's own rows are as known now.
                seen = list(range(oldest, min(length, b * hop + hop + A)))
                where = [(s // hop, s % hop) if s < b * hop else (b, s - b * hop) for s in seen]
                key, value = (torch.stack([x[i][j] for i, j in where], dim=1) for x in (keys, values))
                rows.append(_attend(queries[b][r], key, value, frame, seen, biases[b][r], lowest))
        items.append(torch.stack(rows, dim=1).unflatten(1, (P, R)))
    return torch.stack(items)


def _rows(x: torch.Tensor) -> list[tuple[torch.Tensor, ...]]:
    """[H, P, R, D] as rows [H, D] by block and row: each has a gradient of its own size, not of that of x."""
    return [block.unbind(1) for block in x.unbind(1)]

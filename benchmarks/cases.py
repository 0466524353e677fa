# SPDX-License-Identifier: Apache-2.0
"""The only list of cases and peers: other ways to compute the same numbers, each checked before it is timed.

Shapes are those of a wav2vec 2.0 base encoder: 12 heads of 64 features, 30 s of 20 ms frames, A = 8, B = 64.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch.nn import functional as F

from headrace import ops
from headrace.mixers.relative import sinusoids
from headrace.ops.layout import row_frames
from headrace.reach import Band, Blocks

HEADS, FEATURES, FRAMES, LOOK_AHEAD, LOOK_BACK = 12, 64, 1500, 8, 64
Call = Callable[..., torch.Tensor]


@dataclass(frozen=True)
class Case:
    """One operation at one shape, forward or forward and backward, and the ways to compute it."""

    name: str
    op: str
    batch: int
    reach: Band | Blocks
    backward: bool
    peers: dict[str, Call]
    targets: dict[str, float]  # peer: how many times slower than ours it must be

    def shape(self) -> tuple[int, ...]:
        """Of q, k and v."""
        if self.op == "sa":
            return self.batch, HEADS, FRAMES, FEATURES
        assert isinstance(self.reach, Blocks)
        return self.batch, HEADS, -(-FRAMES // self.reach.hop), self.reach.rows, FEATURES

    def rows_that_exist(self) -> torch.Tensor:
        """1 for rows of frames inside the utterance, 0 for those behind it: zero for headrace, anything for peers."""
        if not isinstance(self.reach, Blocks):
            return torch.ones(FRAMES, 1)
        count = -(-FRAMES // self.reach.hop)
        frames = row_frames(self.reach, count, torch.device("cpu"))
        return (frames < count * self.reach.hop).float()[..., None]


def ours(op: str, backend: str) -> Call:
    """headrace's own, by one of its backends."""

    def call(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, reach: Any) -> torch.Tensor:
        with ops.backend(backend):
            return getattr(ops, op)(q, k, v, reach)

    return call


# ---- other ways to compute sa ----


def sa_blocked_sdpa(size: int) -> Call:
    """Groups of ``size`` queries over their windows of keys, through scaled_dot_product_attention with a mask."""

    def call(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, band: Band) -> torch.Tensor:
        T, A, B = q.shape[2], band.look_ahead, band.look_back or 0
        groups = -(-T // size)
        pad = groups * size - T
        keys, values = (F.pad(x, (0, 0, B, A + pad)).unfold(2, size + A + B, size).mT for x in (k, v))
        queries = F.pad(q, (0, 0, 0, pad)).unflatten(2, (groups, size))
        t = torch.arange(groups * size, device=q.device).view(groups, size, 1)
        s = (
            torch.arange(groups, device=q.device).view(-1, 1, 1) * size
            - B
            + torch.arange(size + A + B, device=q.device)
        )
        seen = (s >= t - B) & (s <= t + A) & (s >= 0) & ((s < T) | (t >= T))
        return F.scaled_dot_product_attention(queries, keys, values, attn_mask=seen).flatten(2, 3)[:, :, :T]

    return call


def sa_masked_sdpa(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, band: Band) -> torch.Tensor:
    """All T x T scores with a band mask: what most code does."""
    t = torch.arange(q.shape[2], device=q.device)
    offset = t[None, :] - t[:, None]
    seen = (offset <= band.look_ahead) & (offset >= -(band.look_back or 0))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=seen)


@cache
def _flex() -> Call:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention)


def sa_flex(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, band: Band) -> torch.Tensor:
    """Compiled FlexAttention with a block mask."""
    return _flex()(q, k, v, block_mask=_flex_band(q.shape[2], band, str(q.device)))


@cache
def _flex_band(frames: int, band: Band, device: str) -> Any:
    from torch.nn.attention.flex_attention import create_block_mask

    def seen(b: Any, h: Any, t: Any, s: Any) -> Any:
        return (s - t <= band.look_ahead) & (s - t >= -(band.look_back or 0))

    return create_block_mask(seen, None, None, frames, frames, device=device, BLOCK_SIZE=64)


# ---- other ways to compute llsa ----


def llsa_tiled(size: int) -> Call:
    """Tiles of ``size`` blocks over their window of final rows, and each block's own rows: plain torch."""

    def call(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, blocks: Blocks) -> torch.Tensor:
        P, hop, R, B = q.shape[2], blocks.hop, blocks.rows, blocks.look_back or 0
        tiles = -(-P // size)
        pad = tiles * size - P
        q, k, v = (F.pad(x, (0, 0, 0, 0, 0, pad)) for x in (q, k, v))
        width = B + (size - 1) * hop
        finals = [F.pad(x[..., :hop, :].flatten(2, 3), (0, 0, B, 0)) for x in (k, v)]
        past_keys, past_values = (x.unfold(2, width, size * hop).mT for x in finals)  # [N, H, tiles, width, D]
        queries = q.unflatten(2, (tiles, size))  # [N, H, tiles, size, R, D]
        own_keys, own_values = (x.unflatten(2, (tiles, size)) for x in (k, v))
        scores = torch.cat([
            (queries.flatten(3, 4) @ past_keys.mT).unflatten(3, (size, R)), queries @ own_keys.mT
        ], -1) / FEATURES**0.5  # fmt: skip
        seen = _tile_mask(tiles, size, P, blocks, str(q.device))
        weights = scores.masked_fill(~seen, -1e30).softmax(-1)
        past, own = weights.split([width, R], -1)
        y = (past.flatten(3, 4) @ past_values).unflatten(3, (size, R)) + own @ own_values
        return y.flatten(2, 3)[:, :, :P]

    return call


@cache
def _tile_mask(tiles: int, size: int, count: int, blocks: Blocks, device: str) -> torch.Tensor:
    hop, R, B = blocks.hop, blocks.rows, blocks.look_back or 0
    block = torch.arange(tiles * size, device=device).view(tiles, size, 1, 1)
    frame = block * hop + torch.arange(R, device=device).view(R, 1)
    start = torch.arange(tiles, device=device).view(tiles, 1, 1, 1) * size * hop - B
    past = start + torch.arange(B + (size - 1) * hop, device=device)
    own = block * hop + torch.arange(R, device=device)
    end = count * hop
    sees_past = (past >= 0) & (past < block * hop) & (past >= frame - B)
    sees_own = (own >= frame - B) & ((own < end) | (frame >= end))
    shape = (tiles, size, R, -1)
    return torch.cat([sees_past.expand(shape), sees_own.expand(shape)], -1)


def llsa_flex(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, blocks: Blocks) -> torch.Tensor:
    """Compiled FlexAttention on the expanded sequence, row after row of block after block."""
    shape = q.shape
    q, k, v = (x.flatten(2, 3) for x in (q, k, v))
    return _flex()(q, k, v, block_mask=_flex_rows(shape[2], blocks, str(q.device))).view(shape)


@cache
def _flex_rows(count: int, blocks: Blocks, device: str) -> Any:
    from torch.nn.attention.flex_attention import create_block_mask

    hop, R, B = blocks.hop, blocks.rows, blocks.look_back or 0

    def seen(b: Any, h: Any, i: Any, j: Any) -> Any:
        query_block, key_block = i // R, j // R
        query, key = query_block * hop + i % R, key_block * hop + j % R
        is_final = (key_block < query_block) & (j % R < hop)
        exists = (key < count * hop) | (query >= count * hop)
        return (is_final | (key_block == query_block)) & (key >= query - B) & exists

    return create_block_mask(seen, None, None, count * R, count * R, device=device, BLOCK_SIZE=128)


BAND, LLSA = Band(LOOK_AHEAD, LOOK_BACK), Blocks(LOOK_AHEAD, LOOK_BACK)
SA_PEERS = {
    "blocked SDPA, 32 queries": sa_blocked_sdpa(32),
    "blocked SDPA, 64 queries": sa_blocked_sdpa(64),
    "SDPA with the band mask": sa_masked_sdpa,
    "headrace, torch path": ours("sa", "torch"),
}
LLSA_PEERS = {
    "tiled torch, 7 blocks": llsa_tiled(7),
    "tiled torch, 14 blocks": llsa_tiled(14),
    "headrace, torch path": ours("llsa", "torch"),
}
FLEX_SA, FLEX_LLSA = {"FlexAttention, compiled": sa_flex}, {"FlexAttention, expanded": llsa_flex}  # no backward on CPUs

CASES = [
    Case("SA forward, batch 4", "sa", 4, BAND, False, SA_PEERS | FLEX_SA,
         {"blocked SDPA": 3, "FlexAttention": 5, "SDPA with": 14}),
    Case("SA forward + backward, batch 4", "sa", 4, BAND, True, SA_PEERS, {"blocked SDPA": 6}),
    Case("LLSA forward, batch 1", "llsa", 1, LLSA, False, LLSA_PEERS | FLEX_LLSA,
         {"tiled torch": 10, "FlexAttention": 60}),
    Case("LLSA forward + backward, batch 1", "llsa", 1, LLSA, True, LLSA_PEERS, {"tiled torch": 9}),
]  # fmt: skip


# ---- the baseline of attention-free conformers ----


def dense_relative(encoder: Any) -> None:
    """Put the papers' baseline into an encoder of ``chunked`` attention: all T x T scores, then the chunks' mask.

    Relative positions by Transformer-XL's shift: the distances of all pairs at once, and a view that lines them up.
    """
    for layer in encoder.context.layers:
        layer.mixer.attend = _dense_attend(layer.mixer)


@cache
def _distance_table(num_frames: int, width: int) -> torch.Tensor:
    """Sines of -(T - 1) .. T - 1: made once, as all layers of a pass share them."""
    return sinusoids(torch.arange(1 - num_frames, num_frames).abs(), width).float()


def _dense_attend(mixer: Any) -> Call:
    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, lengths: torch.Tensor, reach: Blocks) -> torch.Tensor:
        shape = q.shape
        q, k, v = (x.flatten(2, 3) for x in (q, k, v))
        T, relative = q.shape[2], mixer.relative
        table = _distance_table(T, relative.distance_proj.in_features)
        distances = relative.distance_proj(table).unflatten(-1, (q.shape[1], -1)).transpose(0, 1)
        content = (q + relative.content_bias[:, None]) @ k.mT
        shifted = F.pad((q + relative.distance_bias[:, None]) @ distances.mT, (1, 0))
        shifted = shifted.view(*q.shape[:2], 2 * T, T)[:, :, 1:].view(*q.shape[:2], T, 2 * T - 1)[..., :T]
        t, s = torch.arange(T)[:, None] // reach.hop, torch.arange(T)[None] // reach.hop
        past = torch.arange(T) >= lengths[:, None, None, None]
        hidden = (s != t) | (past & ~past.mT)  # rows past the end see each other, which nothing reads
        scores = ((content + shifted) / q.shape[-1] ** 0.5).masked_fill(hidden, float("-inf"))
        return (scores.softmax(-1) @ v).view(shape)

    return attend

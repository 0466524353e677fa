# SPDX-License-Identifier: Apache-2.0
"""One tick of live running on ring buffers: the same rows as ``sa`` and ``llsa`` give on the whole utterance.

A ring [slots, H, frames, D] holds the final keys (or values) of the last frames of each slot, frame s at s % frames; a
slot is the place of one stream. ``positions`` [slots] counts the frames that a slot has taken; 0 starts a stream anew,
whatever its ring holds, and a negative number starts it with frames that do not exist: unseen, and zero in the result.
Rings and positions are changed in place.
"""

from __future__ import annotations

import torch

from headrace.ops import native
from headrace.ops.arguments import check_bias, check_features, check_qkv
from headrace.ops.backend import runs_native
from headrace.ops.blocked import masked_softmax, relative_bias
from headrace.reach import Band, Blocks


def sa_step(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    key_ring: torch.Tensor,
    value_ring: torch.Tensor,
    positions: torch.Tensor,
    slots: torch.Tensor,
    band: Band,
    lengths: torch.Tensor | None = None,
) -> torch.Tensor:
    """Take m new frames of each stream and give the m frames that lie A behind them.

    Args:
        q: [S, H, m, D], of the frames positions - A .. positions - A + m - 1: the caller keeps queries for A frames.
        k, v: [S, H, m, D], of the new frames positions .. positions + m - 1.
        key_ring, value_ring: [slots, H, frames, D], at least A + B + m frames.
        positions: [slots] int64.
        slots: [S] int64, each slot at most once.
        band: A and B; B must be bounded.
        lengths: [S] int64, frames that exist, once the end of a stream is known; later ones are unseen and zero.

    Returns:
        [S, H, m, D]; zero for frames before the first and after the last.

    Raises:
        ValueError: naming the argument, what was expected and what came.
    """
    check_qkv("sa_step", q, k, v, "S, H, m, D")
    if not isinstance(band, Band):
        raise ValueError(f"sa_step: band must be a Band(look_ahead, look_back), got {band!r}.")
    m, look_back = q.shape[2], _bounded("sa_step", band.look_back)
    _check_state("sa_step", q, key_ring, value_ring, positions, slots, lengths, band.look_ahead + look_back + m)
    if runs_native(q):
        state = (key_ring, value_ring, positions, slots, lengths)
        return torch.ops.headrace.sa_step(q, k, v, *state, band.look_ahead, look_back)
    now = positions[slots][:, None]
    fresh = now + torch.arange(m, device=q.device)
    _keep(key_ring, slots, fresh, k)
    _keep(value_ring, slots, fresh, v)
    t = (fresh - band.look_ahead)[:, :, None]
    s = _held(now + m, key_ring.shape[2])[:, None]
    seen = (s >= 0) & (s >= t - look_back) & (s <= t + band.look_ahead)
    y = _attend(q, key_ring[slots], value_ring[slots], seen, s, t, lengths)
    positions[slots] = now[:, 0] + m
    return y


def llsa_step(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    key_ring: torch.Tensor,
    value_ring: torch.Tensor,
    positions: torch.Tensor,
    slots: torch.Tensor,
    blocks: Blocks,
    lengths: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
) -> torch.Tensor:
    """Take and give one block of each stream: its hop final rows and its look-ahead rows, from frame ``positions`` on.

    Args:
        q: [S, H, hop+A, D], or the hop final rows alone (the last layer).
        k, v: [S, H, hop+A, D].
        key_ring, value_ring: [slots, H, frames, D], at least B frames and at least hop.
        positions, slots, lengths: as in ``sa_step``; positions are multiples of hop.
        blocks: B must be bounded.
        bias: [S, H, R, offsets], for each query, with the R rows of q, any strides, as in ``llsa``; one that queries
            share, [H, offsets], is ``bias[:, None].expand(S, -1, R, -1)``. On a GPU the torch path computes with it.

    Returns:
        The shape of q; rows past a stream's end are zero.

    Raises:
        ValueError: naming the argument, what was expected and what came.
    """
    if not isinstance(blocks, Blocks):
        raise ValueError(f"llsa_step: blocks must be Blocks(look_ahead, look_back, hop), got {blocks!r}.")
    check_qkv("llsa_step", q, k, v, "S, H, hop+A, D", key_rows=blocks.rows)
    if q.shape[2] not in (blocks.rows, blocks.hop):
        raise ValueError(
            f"llsa_step: q must have hop + look_ahead = {blocks.rows} rows, or the {blocks.hop} final ones, got "
            f"{q.shape[2]}."
        )
    look_back = _bounded("llsa_step", blocks.look_back)
    _check_state("llsa_step", q, key_ring, value_ring, positions, slots, lengths, max(look_back, blocks.hop))
    check_bias("llsa_step", bias, q, blocks, {"S, H, R": q.shape[:3]})
    if runs_native(q, bias):
        return native.llsa_step(q, k, v, (key_ring, value_ring, positions, slots), blocks, lengths, bias)
    now = positions[slots][:, None]
    own = now + torch.arange(blocks.rows, device=q.device)
    t = own[:, : q.shape[2], None]
    s = torch.cat([_held(now, key_ring.shape[2]), own], 1)[:, None]
    seen = (s >= 0) & (s >= (now[..., None] if blocks.per_block else t) - look_back)
    keys, values = (torch.cat([ring[slots], x], 2) for ring, x in ((key_ring, k), (value_ring, v)))
    biases = None if bias is None else relative_bias(bias, (s - t)[:, None], blocks)
    y = _attend(q, keys, values, seen, s, t, lengths, biases)
    _keep(key_ring, slots, own[:, : blocks.hop], k[:, :, : blocks.hop])
    _keep(value_ring, slots, own[:, : blocks.hop], v[:, :, : blocks.hop])
    positions[slots] = now[:, 0] + blocks.hop
    return y


def _held(now: torch.Tensor, size: int) -> torch.Tensor:
    """[S, size]: the frame that each place of a ring holds when ``now`` frames were taken; negative for none."""
    last = now - 1
    return last - (last - torch.arange(size, device=now.device)) % size


def _keep(ring: torch.Tensor, slots: torch.Tensor, frames: torch.Tensor, rows: torch.Tensor) -> None:
    """Put rows [S, H, m, D] of frames [S, m] into their places."""
    ring[slots[:, None], :, frames % ring.shape[2]] = rows.transpose(1, 2)


def _attend(
    q: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    seen: torch.Tensor,
    s: torch.Tensor,
    t: torch.Tensor,
    lengths: torch.Tensor | None,
    biases: torch.Tensor | None = None,
) -> torch.Tensor:
    """q [S, H, m, D] of frames t [S, m, 1] over keys [S, H, W, D] of frames s [S, 1, W], where seen [S, m, W].

    biases: [S, H, m, W], added to the scores.
    """
    exists, real = s >= 0, t >= 0
    if lengths is not None:
        end = lengths[:, None, None]
        exists, real, seen = exists & (s < end), real & (t < end), seen & (s < end)
    wide = torch.promote_types(q.dtype, torch.float32)
    keys, values = (x.to(wide).masked_fill(~exists[:, None].mT, 0) for x in (keys, values))
    scores = q.to(wide) @ keys.mT / q.shape[-1] ** 0.5
    if biases is not None:
        scores = scores + biases.to(wide)
    y = masked_softmax(scores, seen[:, None]) @ values
    return y.to(q.dtype).masked_fill(~real[:, None], 0)


def _bounded(op: str, look_back: int | None) -> int:
    if look_back is None:
        raise ValueError(f"{op}: look_back=None would need a ring without end; choose a number of frames.")
    return look_back


def _check_state(
    op: str,
    q: torch.Tensor,
    key_ring: torch.Tensor,
    value_ring: torch.Tensor,
    positions: torch.Tensor,
    slots: torch.Tensor,
    lengths: torch.Tensor | None,
    least_frames: int,
) -> None:
    check_features(op, q)
    for name, ring in (("key_ring", key_ring), ("value_ring", value_ring)):
        fits = ring.dim() == 4 and ring.shape[1] == q.shape[1] and ring.shape[3] == q.shape[3]
        if not fits or ring.shape != key_ring.shape or ring.shape[2] < least_frames or not ring.is_contiguous():
            raise ValueError(
                f"{op}: {name} must be contiguous [slots, {q.shape[1]}, frames >= {least_frames}, {q.shape[3]}], got "
                f"{tuple(ring.shape)}."
            )
        if ring.dtype != q.dtype or ring.device != q.device:
            raise ValueError(f"{op}: {name} must be {q.dtype} on {q.device} like q, got {ring.dtype} on {ring.device}.")
    expected = {"positions": key_ring.shape[0], "slots": q.shape[0], "lengths": q.shape[0]}
    for name, x in (("positions", positions), ("slots", slots), ("lengths", lengths)):
        if x is None and name == "lengths":
            continue
        assert x is not None
        if tuple(x.shape) != (expected[name],) or x.dtype != torch.int64 or x.device != q.device:
            came = f"{tuple(x.shape)} {x.dtype} on {x.device}"
            raise ValueError(f"{op}: {name} must be [{expected[name]}] int64 on {q.device}, got {came}.")
    if slots.device.type == "cpu" and not torch.compiler.is_compiling():
        used = slots.tolist()
        if len(set(used)) != len(used) or any(not 0 <= slot < key_ring.shape[0] for slot in used):
            raise ValueError(f"{op}: slots must be different numbers in 0 .. {key_ring.shape[0] - 1}, got {used}.")

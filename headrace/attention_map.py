# SPDX-License-Identifier: Apache-2.0
"""Where attention goes: the weights of each layer, read off the operations themselves.

    y[t] = sum_s p[t, s] v[s],  so that with v[s] = one-hot of s, y[t] is p[t]

A mixer's own ``attend`` is called again on such values, as many frames at a time as a head has features. Bands, blocks,
provisional rows, masks and biases are then those that the encoder runs with; there is no second softmax.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, NamedTuple

import torch

from headrace.encoder import SpeechEncoder
from headrace.mixers import MIXERS
from headrace.mixers.attention import Attention
from headrace.ops.layout import read_back, row_frames
from headrace.reach import Blocks, Everything, Reach

FARTHEST = 100  # frames to either side of the diagonal that are kept one by one

Attend = Callable[..., torch.Tensor]


class Columns(NamedTuple):
    """Some columns of a layer's attention map.

    layer: 0 .. L-1.
    first_key: the frame of the first column.
    weights: [N, H, T, columns]; row t, column j is what frame t gives to frame first_key + j; zero past the length.
    """

    layer: int
    first_key: int
    weights: torch.Tensor


def attention_weights(
    encoder: SpeechEncoder, waveforms: torch.Tensor, num_samples: torch.Tensor | None = None
) -> list[torch.Tensor]:
    """The attention map of each layer, whole.

    Under ``Blocks``, queries are the final rows, and the provisional rows of a frame count as that frame.

    Args:
        waveforms: [N, samples], as the encoder takes them.
        num_samples: [N] int64, samples of each item; None when all are as long as the tensor.

    Returns:
        L tensors [N, H, T, T], row t what frame t gives to each frame. Rows sum to 1, and are zero past the length.
        For long audio they are large: ``AttentionMeter`` keeps sums alone.

    Raises:
        ValueError: an encoder in training mode or without attention; what ``SpeechEncoder`` refuses.
    """
    found: dict[int, list[torch.Tensor]] = {layer: [] for layer in range(encoder.config.num_layers)}
    lengths = _read(encoder, waveforms, num_samples, lambda columns: found[columns.layer].append(columns.weights))
    N, T = len(lengths), int(lengths.max()) if len(lengths) else 0
    empty = waveforms.new_zeros(N, encoder.config.num_heads, T, 0)
    return [torch.cat([empty, *columns], -1) for columns in found.values()]


@dataclass(frozen=True)
class LayerMap:
    """The mean attention map of a layer: over heads, and over the frames of all utterances.

    reach: who sees whom in it.
    by_offset: what a frame gives to the frame ``first_offset + i`` frames behind it (below 0: before it).
    rows: the same for each place in a block by itself (one place where there are no blocks).
    shares: what lies within k frames of the diagonal, k = 0, 1, ...
    even_shares: the same if each frame gave equal weights to all that it sees.
    """

    layer: int
    reach: Reach
    first_offset: int
    by_offset: list[float]
    rows: list[list[float]]
    shares: list[float]
    even_shares: list[float]


class AttentionMeter:
    """Adds up attention maps; of an utterance, only D columns of a layer's map are held at a time.

    Args:
        encoder: in eval mode. It is left as it is.
        farthest: frames to either side of the diagonal up to which shares and maps are kept.

    Raises:
        ValueError: an encoder in training mode or without attention; ``farthest`` below 0.
    """

    def __init__(self, encoder: SpeechEncoder, farthest: int = FARTHEST) -> None:
        if farthest < 0:
            raise ValueError(f"farthest must be 0 or more frames, got {farthest}.")
        check_has_attention(encoder)
        self.encoder = encoder
        self.num_frames = 0
        self._sums = [_Sums(reach, farthest) for reach in encoder.config.reaches]

    def add(self, waveforms: torch.Tensor, num_samples: torch.Tensor | None = None) -> None:
        """Some more utterances: [N, samples], and [N] int64 samples of each. Raises as ``attention_weights``."""
        lengths = _read(self.encoder, waveforms, num_samples, self._take)
        self.num_frames += int(lengths.sum())
        for sums in self._sums:
            for length in lengths.tolist():
                sums.count(length)

    def layers(self) -> list[LayerMap]:
        """The mean maps so far, lowest layer first.

        Raises:
            ValueError: no frame yet.
        """
        if self.num_frames == 0:
            raise ValueError("no frame was added: an attention map needs one utterance of at least one frame.")
        return [sums.mean(layer) for layer, sums in enumerate(self._sums, start=1)]

    def _take(self, columns: Columns) -> None:
        self._sums[columns.layer].add(columns)


def check_has_attention(encoder: SpeechEncoder) -> None:
    """Raise ValueError where an encoder has no attention, or drops at random."""
    if encoder.training:
        raise ValueError("an encoder in training mode drops and skips at random; call encoder.eval() first.")
    if not issubclass(MIXERS[encoder.config.mixer], Attention):
        able = ", ".join(name for name, mixer in MIXERS.items() if issubclass(mixer, Attention))
        raise ValueError(
            f"an encoder with mixer={encoder.config.mixer!r} has no attention and so no attention map; expected one of "
            f"{able}."
        )


def even_shares(reach: Reach, num_frames: int, farthest: int = FARTHEST) -> list[float]:
    """What lies within k = 0 .. farthest frames if each of ``num_frames`` gave equal weights to all that it sees."""
    sums = _even_by_offset(reach, num_frames, -farthest, farthest)
    return (_within(sums, -farthest, farthest) / max(num_frames, 1)).tolist()


# ---- reading ----


def _read(
    encoder: SpeechEncoder,
    waveforms: torch.Tensor,
    num_samples: torch.Tensor | None,
    take: Callable[[Columns], None],
) -> torch.Tensor:
    """Run the encoder and hand over the columns of each layer's map; returns the lengths [N]."""
    check_has_attention(encoder)

    def watch(*call: Any) -> None:
        for columns in _columns_of(*call):
            take(columns)

    with torch.no_grad(), _watched(encoder, watch):
        return encoder(waveforms, num_samples).lengths


@contextlib.contextmanager
def _watched(encoder: SpeechEncoder, watch: Callable[..., None]) -> Iterator[None]:
    """Each mixer's ``attend`` is watched meanwhile, and afterwards what it was."""
    mixers = [layer.mixer for layer in encoder.context.layers]
    own = [vars(mixer).get("attend") for mixer in mixers]  # None: the class's
    try:
        for layer, mixer in enumerate(mixers):
            vars(mixer)["attend"] = partial(_attend_watched, watch, layer, mixer.attend)
        yield
    finally:
        for mixer, attend in zip(mixers, own, strict=True):
            vars(mixer).pop("attend", None)
            if attend is not None:
                vars(mixer)["attend"] = attend


def _attend_watched(
    watch: Callable[..., None],
    layer: int,
    attend: Attend,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    lengths: torch.Tensor,
    reach: Reach,
) -> torch.Tensor:
    watch(layer, attend, q, k, lengths, reach)
    return attend(q, k, v, lengths, reach)


def _columns_of(
    layer: int, attend: Attend, q: torch.Tensor, k: torch.Tensor, lengths: torch.Tensor, reach: Reach
) -> Iterator[Columns]:
    """All columns of a layer's map, as many at a time as there are features; q, k as ``Attention.attend`` has them."""
    num_frames = int(lengths.max()) if len(lengths) else 0
    features = torch.arange(k.shape[-1], device=k.device)
    if k.dim() == 4:
        frames = torch.arange(k.shape[2], device=k.device)
    else:
        assert isinstance(reach, Blocks)
        frames = row_frames(reach, k.shape[2], k.device)
    for first in range(0, num_frames, k.shape[-1]):
        is_key = (frames - first)[..., None] == features
        y = attend(q, k, is_key.to(k.dtype).expand(k.shape), lengths, reach)
        if isinstance(reach, Blocks):
            y = read_back(y, reach, num_frames)
        yield Columns(layer, first, y[:, :, :num_frames, : num_frames - first])


# ---- adding up ----


class _Sums:
    """Of one layer: attention by the query's place in its block and by offset, and how many queries there were."""

    def __init__(self, reach: Reach, farthest: int) -> None:
        self.reach, self.farthest = reach, farthest
        self.hop = reach.hop if isinstance(reach, Blocks) else 1
        self.lowest, self.highest = _window(reach, farthest)
        width = self.highest - self.lowest + 1
        self.mass = torch.zeros(self.hop, width, dtype=torch.float64)
        self.even = torch.zeros(width, dtype=torch.float64)
        self.queries = torch.zeros(self.hop, dtype=torch.float64)

    def add(self, columns: Columns) -> None:
        weights = columns.weights.double().mean(1).sum(0).cpu()  # [T, columns]
        t = torch.arange(weights.shape[0])[:, None]
        s = columns.first_key + torch.arange(weights.shape[1])
        inside = (s - t >= self.lowest) & (s - t <= self.highest)
        place = t % self.hop * self.mass.shape[1] + s - t - self.lowest
        self.mass.view(-1).index_add_(0, place[inside], weights[inside])

    def count(self, num_frames: int) -> None:
        self.queries += torch.bincount(torch.arange(num_frames) % self.hop, minlength=self.hop)
        self.even += _even_by_offset(self.reach, num_frames, self.lowest, self.highest)

    def mean(self, layer: int) -> LayerMap:
        total = self.queries.sum()
        by_offset = self.mass.sum(0) / total
        return LayerMap(
            layer=layer,
            reach=self.reach,
            first_offset=self.lowest,
            by_offset=by_offset.tolist(),
            rows=(self.mass / self.queries.clamp(min=1)[:, None]).tolist(),
            shares=_within(by_offset, self.lowest, self.farthest).tolist(),
            even_shares=_within(self.even / total, self.lowest, self.farthest).tolist(),
        )


def _window(reach: Reach, farthest: int) -> tuple[int, int]:
    """Lowest and highest key frame minus query frame that are kept; of blocks, all offsets inside a block are."""
    if isinstance(reach, Everything):
        return -farthest, farthest
    ahead = reach.rows - 1 if isinstance(reach, Blocks) else reach.look_ahead
    inside = reach.hop - 1 if isinstance(reach, Blocks) else 0
    back = farthest if reach.look_back is None else -reach.offsets()[0]
    return -max(min(back, farthest), inside), max(min(ahead, farthest), inside)


def _within(by_offset: torch.Tensor, first_offset: int, farthest: int) -> torch.Tensor:
    """[farthest + 1]: the sum of what lies within k = 0 .. farthest frames."""
    distance = (first_offset + torch.arange(len(by_offset))).abs()
    near = distance <= farthest
    sums = torch.zeros(farthest + 1, dtype=torch.float64)
    return sums.index_add_(0, distance[near], by_offset[near]).cumsum(0)


@lru_cache
def _even_by_offset(reach: Reach, num_frames: int, lowest: int, highest: int) -> torch.Tensor:
    """[highest - lowest + 1]: equal weights on all frames that a frame sees, by offset, summed over frames."""
    if num_frames == 0:
        return torch.zeros(highest - lowest + 1, dtype=torch.float64)
    limits = [(reach.first(t) - t, _last(reach, t, num_frames) - t + 1) for t in range(num_frames)]
    first, end = torch.tensor(limits).T
    weight = 1 / (end - first).double()
    steps = torch.zeros(highest - lowest + 2, dtype=torch.float64)
    steps.index_add_(0, first.clamp(lowest, highest + 1) - lowest, weight)
    steps.index_add_(0, end.clamp(lowest, highest + 1) - lowest, -weight)
    return steps.cumsum(0)[:-1]


def _last(reach: Reach, t: int, num_frames: int) -> int:
    last = reach.last(t)
    return num_frames - 1 if last is None else min(last, num_frames - 1)

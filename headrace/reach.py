# SPDX-License-Identifier: Apache-2.0
"""Who may see whom.

A reach is one small value that says which input frames an output frame may depend on. It is handed to a mixer at each
call, so that one set of weights can be trained and run under several. Masks, pictures and the latency that an encoder
claims are computed from it; nothing about look-ahead is typed twice.

    Everything()                                  frame t sees all frames
    Band(look_ahead=A, look_back=B)               frame t sees t-B .. t+A; look-ahead adds up over layers
    Blocks(look_ahead=A, look_back=B, hop=h)      frame t sees t-B .. (end of its block of h frames) + A, at any depth

All limits are inclusive; ``look_back=None`` is unbounded. Frames outside the utterance do not exist.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch


def _check_frames(name: str, value: object, lowest: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < lowest:
        raise ValueError(f"{name} must be a whole number of frames >= {lowest}, got {value!r}.")


def _check_look_back(value: object) -> None:
    if value is not None:
        _check_frames("look_back", value, 0)


@dataclass(frozen=True)
class Everything:
    """Every frame sees the whole utterance."""

    def first(self, t: int) -> int:
        """First frame that frame t sees in one layer."""
        return 0

    def last(self, t: int) -> int | None:
        """Last frame that frame t sees in one layer; None is the end of the utterance, wherever that is."""
        return None


@dataclass(frozen=True)
class Band:
    """Frame t sees t - look_back .. t + look_ahead (2302.13451, section 3.1)."""

    look_ahead: int
    look_back: int | None

    def __post_init__(self) -> None:
        _check_frames("look_ahead", self.look_ahead, 0)
        _check_look_back(self.look_back)

    def first(self, t: int) -> int:
        """First frame that frame t sees in one layer."""
        return 0 if self.look_back is None else max(0, t - self.look_back)

    def last(self, t: int) -> int | None:
        """Last frame that frame t sees in one layer."""
        return t + self.look_ahead

    def offsets(self) -> tuple[int, int]:
        """Lowest and highest key frame minus query frame; needs a bounded look-back."""
        return -_bounded(self.look_back), self.look_ahead


@dataclass(frozen=True)
class Blocks:
    """Blocks of ``hop`` frames, each emitted once ``look_ahead`` further frames are known (2302.13451, section 4).

    hop = 1 is LLSA, look_ahead = 0 is chunked attention. With ``per_block`` the look-back counts from the block's first
    frame for all its rows (the chunks of 2409.07165 and 2601.19960) instead of from each frame.
    """

    look_ahead: int
    look_back: int | None
    hop: int = 1
    per_block: bool = False

    def __post_init__(self) -> None:
        _check_frames("look_ahead", self.look_ahead, 0)
        _check_look_back(self.look_back)
        _check_frames("hop", self.hop, 1)

    @property
    def rows(self) -> int:
        """Rows of a block: its hop final frames and the look_ahead provisional ones."""
        return self.hop + self.look_ahead

    def first(self, t: int) -> int:
        """First frame that frame t sees in one layer."""
        if self.look_back is None:
            return 0
        anchor = t // self.hop * self.hop if self.per_block else t
        return max(0, anchor - self.look_back)

    def last(self, t: int) -> int | None:
        """Last frame that frame t sees, through any number of layers."""
        return t // self.hop * self.hop + self.rows - 1

    def offsets(self) -> tuple[int, int]:
        """Lowest and highest key frame minus query frame over all rows; needs a bounded look-back."""
        look_back = _bounded(self.look_back)
        return -(look_back + self.rows - 1 if self.per_block else look_back), self.rows - 1


@dataclass(frozen=True)
class Neighbours:
    """A centred convolution: frame t sees t - radius .. t + radius, but nothing past its block of ``hop`` frames."""

    radius: int
    hop: int | None = None  # None: no blocks

    def __post_init__(self) -> None:
        _check_frames("radius", self.radius, 0)
        if self.hop is not None:
            _check_frames("hop", self.hop, 1)

    def first(self, t: int) -> int:
        """First frame that frame t sees in one layer."""
        return max(0, t - self.radius)

    def last(self, t: int) -> int | None:
        """Last frame that frame t sees in one layer."""
        ahead = t + self.radius
        return ahead if self.hop is None else min(ahead, t // self.hop * self.hop + self.hop - 1)


def _bounded(look_back: int | None) -> int:
    if look_back is None:
        raise ValueError("look_back=None has no lowest offset; choose a number of frames to use a relative bias.")
    return look_back


@dataclass(frozen=True)
class Stack:
    """The reach of several layers on top of each other, lowest first: itself a reach."""

    layers: tuple[Everything | Band | Blocks | Neighbours, ...]

    def __post_init__(self) -> None:
        mixed = [r for r in self.layers if not isinstance(r, Neighbours)]
        shapes = {(r.look_ahead, r.hop) if isinstance(r, Blocks) else None for r in mixed}
        if len(shapes) > 1:
            raise ValueError(
                "a stack holds either no Blocks or only Blocks of one look_ahead and hop (their rows keep one layout "
                f"through all layers), got {self.layers}."
            )

    def first(self, t: int) -> int:
        """First input frame that frame t of the top layer depends on."""
        for layer in reversed(self.layers):
            t = layer.first(t)
        return t

    def last(self, t: int) -> int | None:
        """Last input frame that frame t of the top layer depends on; None is the end of the utterance.

        Bands add up. Blocks do not: provisional rows never know more than their own block does.
        """
        if self.layers and isinstance(self.layers[0], Blocks) and self.layers[0].look_ahead:
            return self.layers[0].last(t)
        last: int | None = t
        for layer in reversed(self.layers):
            last = None if last is None else layer.last(last)
        return last


Reach = Everything | Band | Blocks
AnyReach = Reach | Neighbours | Stack


KINDS: dict[str, type[Everything] | type[Band] | type[Blocks]] = {
    kind.__name__: kind for kind in (Everything, Band, Blocks)
}


def to_values(reach: Reach) -> dict[str, Any]:
    """A reach as plain values, for JSON and states."""
    return {"kind": type(reach).__name__, **asdict(reach)}


def from_values(values: Mapping[str, Any]) -> Reach:
    """Read what ``to_values`` wrote.

    Raises:
        ValueError: it is no reach.
    """
    rest = dict(values)
    kind = rest.pop("kind", None)
    try:
        return KINDS[kind](**rest)
    except (KeyError, TypeError):
        raise ValueError(f"a reach must be one of {', '.join(KINDS)} with its numbers, got {dict(values)}.") from None


def look_ahead(reach: AnyReach) -> int | None:
    """Largest number of frames that any frame must wait for; None where it waits for the whole utterance."""
    hop = block_of(reach)
    waits = [last - t for t in range(hop) if (last := reach.last(t)) is not None]
    return max(waits) if len(waits) == hop else None


def block_of(reach: AnyReach) -> int:
    """Frames after which who sees whom repeats itself: those of a block, or 1."""
    return max((layer.hop or 1 for layer in _layers(reach) if isinstance(layer, Blocks | Neighbours)), default=1)


def _layers(reach: AnyReach) -> Sequence[Reach | Neighbours]:
    return reach.layers if isinstance(reach, Stack) else (reach,)


def mask(reach: AnyReach, num_frames: int) -> torch.Tensor:
    """[T, T] bool: row t, column s says whether frame t sees frame s.

    >>> mask(Band(look_ahead=1, look_back=2), 5).int().tolist()
    [[1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [0, 1, 1, 1, 1], [0, 0, 1, 1, 1]]
    """
    seen = torch.zeros(num_frames, num_frames, dtype=torch.bool)
    for t in range(num_frames):
        last = reach.last(t)
        seen[t, reach.first(t) : num_frames if last is None else last + 1] = True
    return seen


def picture(reach: AnyReach, num_frames: int = 16) -> str:
    """The mask as text, one line a frame.

    >>> print(picture(Blocks(look_ahead=1, look_back=2, hop=2), 4))
    ███·
    ███·
    ████
    ·███
    """
    return "\n".join("".join("█" if s else "·" for s in row) for row in mask(reach, num_frames).tolist())

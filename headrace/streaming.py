# SPDX-License-Identifier: Apache-2.0
"""What a stream remembers between two ticks, and the one way in which parts of an encoder remember it.

A part says what it keeps (``Entry``), and in its ``tick`` reads and writes it through ``Live``. All state of all
streams is one flat table of tensors whose first axis is the slot, the place of one stream; so streams start, end, are
saved, restored and branched without any part knowing of it.

Ticks are cut so that the newest sample of each is the last one that its newest frame needs, and the newest frame the
last one that its block needs: nothing waits for a tick to be full. The first tick therefore holds a few samples from
before the utterance (zeros), and frames are counted from a negative number on; such frames do not exist.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from headrace.reach import Reach, from_values, to_values

NO_END = 2**62
"""Length of a stream whose end is not known."""

FORMAT_VERSION = 2


@dataclass(frozen=True)
class Entry:
    """What a part keeps of each stream: a tensor of this shape, in the encoder's dtype unless it has its own."""

    shape: tuple[int, ...]
    initial: float = 0
    dtype: torch.dtype | None = None


Entries = dict[str, Entry]


def within(name: str, entries: Entries) -> Entries:
    """The entries of a part, under its name."""
    return {f"{name}.{key}": entry for key, entry in entries.items()}


@dataclass
class StreamState:
    """The state of ``num_slots`` streams; ``SpeechEncoder.init_state`` makes it, ``step`` and ``tick`` change it.

    tensors: by name, [slots, ...] each.
    initial: what a slot starts with, by name.
    made_by: the fingerprint of the encoder that it belongs to.
    hop: frames of a tick.
    hidden_states: "last" or "all", what the encoder returns.
    reaches: of each layer.
    """

    tensors: dict[str, torch.Tensor]
    initial: dict[str, float]
    made_by: str
    hop: int
    hidden_states: str
    reaches: tuple[Reach, ...]

    @classmethod
    def start(
        cls,
        entries: Entries,
        num_slots: int,
        like: torch.Tensor,
        made_by: str,
        hop: int,
        hidden_states: str,
        reaches: tuple[Reach, ...],
    ) -> StreamState:
        """Fresh streams, on the device and in the dtype of ``like``."""
        tensors = {
            name: torch.full(
                (num_slots, *entry.shape), entry.initial, dtype=entry.dtype or like.dtype, device=like.device
            )
            for name, entry in entries.items()
        }
        initial = {name: entry.initial for name, entry in entries.items()}
        return cls(tensors, initial, made_by, hop, hidden_states, reaches)

    @property
    def num_slots(self) -> int:
        """Streams that it has room for."""
        return next(iter(self.tensors.values())).shape[0]

    @property
    def num_bytes(self) -> int:
        """Bytes of all tensors; never grows."""
        return sum(x.numel() * x.element_size() for x in self.tensors.values())

    def restart(self, slots: torch.Tensor) -> None:
        """Forget what these slots hold."""
        for name, x in self.tensors.items():
            x[slots] = self.initial[name]

    def clone(self) -> StreamState:
        """A branch: the same streams, going on apart."""
        return dataclasses.replace(self, tensors={name: x.clone() for name, x in self.tensors.items()})

    def to_dict(self) -> dict[str, Any]:
        """Plain values and tensors: torch.save writes it, torch.load(weights_only=True) reads it."""
        tensors = {name: x.clone() for name, x in self.tensors.items()}
        reaches = [to_values(reach) for reach in self.reaches]
        plain = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {"format_version": FORMAT_VERSION, **plain, "tensors": tensors, "reaches": reaches}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> StreamState:
        """Read what ``to_dict`` wrote.

        Raises:
            ValueError: another format version, or fields that are missing or unknown.
        """
        names = {field.name for field in dataclasses.fields(cls)} | {"format_version"}
        if values.get("format_version", FORMAT_VERSION) != FORMAT_VERSION:
            raise ValueError(f"a stream's state has format version {FORMAT_VERSION}, got {values['format_version']}.")
        if set(values) != names:
            raise ValueError(
                f"a stream's state has the fields {', '.join(sorted(names))}; got {', '.join(sorted(values))}."
            )
        rest = {name: values[name] for name in names - {"format_version", "tensors", "reaches"}}
        tensors = {name: x.clone() for name, x in values["tensors"].items()}
        return cls(tensors=tensors, reaches=tuple(map(from_values, values["reaches"])), **rest)


@dataclass(frozen=True)
class Live:
    """What a part sees of a state in one tick of some slots.

    tensors: of all slots.
    slots: [S] int64, each slot at most once.
    is_whole: they are all slots in order, which spares copies.
    """

    tensors: dict[str, torch.Tensor]
    slots: torch.Tensor
    is_whole: bool
    name: str = ""

    def within(self, name: str) -> Live:
        """Of a part of the part."""
        return Live(self.tensors, self.slots, self.is_whole, f"{self.name}{name}.")

    def whole(self, name: str) -> torch.Tensor:
        """[slots, ...]: of all slots, for operations that take slots themselves."""
        return self.tensors[self.name + name]

    def take(self, name: str) -> torch.Tensor:
        """[S, ...]: of the slots of this tick."""
        x = self.whole(name)
        return x if self.is_whole else x[self.slots]

    def put(self, name: str, x: torch.Tensor) -> None:
        """The other way."""
        if self.is_whole:
            self.whole(name).copy_(x)
        else:
            self.whole(name)[self.slots] = x

    def shift(self, name: str, new: torch.Tensor, dim: int) -> torch.Tensor:
        """What was kept, then ``new``, along ``dim``; its end is kept for the next tick."""
        kept = self.take(name)
        length = kept.shape[dim]
        joined = torch.cat([kept, new], dim)
        if length:
            self.put(name, joined.narrow(dim, joined.shape[dim] - length, length))
        return joined


@dataclass(frozen=True)
class Span:
    """Which frames a tick's rows are, and which of them exist.

    first: [S] int64, the frame of the first row; frames below 0 do not exist.
    lengths: [S] int64, frames of each stream; ``NO_END`` where the end is not known.
    """

    first: torch.Tensor
    lengths: torch.Tensor

    def frames(self, count: int) -> torch.Tensor:
        """[S, count] int64: of so many rows."""
        return self.first[:, None] + torch.arange(count, device=self.first.device)

    def missing(self, count: int) -> torch.Tensor:
        """[S, count] bool: which of so many rows hold no frame."""
        frames = self.frames(count)
        return (frames < 0) | (frames >= self.lengths[:, None])


def slot_numbers(slots: Sequence[int] | torch.Tensor | None, num_slots: int) -> list[int]:
    """The slots that a caller means; all of them when None.

    Raises:
        ValueError: not different numbers of slots that exist.
    """
    numbers = list(range(num_slots)) if slots is None else [int(slot) for slot in slots]
    if not numbers or len(set(numbers)) != len(numbers) or any(not 0 <= slot < num_slots for slot in numbers):
        raise ValueError(f"slots must be one or more different numbers in 0 .. {num_slots - 1}, got {numbers}.")
    return numbers

# SPDX-License-Identifier: Apache-2.0
"""Reaches drawn anew for each batch of a training, so that one model serves many (2409.07165, section 3.3)."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from headrace.mixers import MIXERS
from headrace.reach import Everything, Reach

RANGES = ("hop", "look_back_blocks", "look_ahead")


@dataclass(frozen=True)
class DrawnReach:
    """What reaches are drawn from. Ranges are inclusive, in frames; the defaults are the paper's at 40 ms a frame.

    restricted: of all batches, the share that is not trained on whole utterances.
    hop: of a chunk or block, 320 to 1280 ms.
    limited: of restricted batches, the share with a limited look-back; the others see all that was.
    look_back_blocks: how many blocks of hop frames it holds.
    look_ahead: of ``llsa`` and ``sa``, in frames; chunks have none.

    Raises:
        ValueError: naming the field, what was expected and what came.
    """

    restricted: float = 0.6
    hop: tuple[int, int] = (8, 32)
    limited: float = 0.75
    look_back_blocks: tuple[int, int] = (2, 32)
    look_ahead: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        for name in ("restricted", "limited"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
                raise ValueError(f"drawn.{name} must be a share from 0 to 1, got {value!r}.")
        for name in RANGES:
            lowest = 1 if name == "hop" else 0
            object.__setattr__(self, name, frames_range(f"drawn.{name}", getattr(self, name), lowest))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> DrawnReach:
        """Read what ``to_dict`` wrote, or the section of a YAML file.

        Raises:
            ValueError: an unknown field, or a value that a field does not take.
        """
        known = [field.name for field in fields(cls)]
        if not isinstance(values, Mapping):
            raise ValueError(f"drawn must be a mapping with some of {', '.join(known)}, or null, got {values!r}.")
        if unknown := sorted(set(values) - set(known)):
            raise ValueError(f"drawn has no field {', '.join(unknown)}; it has {', '.join(known)}.")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and lists, for JSON."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    def draw(self, mixer: str, *seeds: int) -> Reach:
        """The reach of one batch for a mixer; the same for the same seeds on any machine."""
        generator = random.Random(",".join(map(str, seeds)))
        if generator.random() >= self.restricted:
            return Everything()
        hop, look_ahead = generator.randint(*self.hop), generator.randint(*self.look_ahead)
        is_limited = generator.random() < self.limited
        look_back = hop * generator.randint(*self.look_back_blocks) if is_limited else None
        return MIXERS[mixer].reach(look_ahead, look_back, hop)


def frames_range(name: str, value: Any, lowest: int) -> tuple[int, int]:
    """Two whole numbers that rise, from `lowest` or more.

    Raises:
        ValueError: naming the field, what was expected and what came.
    """
    pair = tuple(value) if isinstance(value, list | tuple) else ()
    if len(pair) != 2 or any(isinstance(end, bool) or not isinstance(end, int) for end in pair):
        raise ValueError(f"{name} must be two whole numbers, the lowest and the highest, got {value!r}.")
    if not lowest <= pair[0] <= pair[1]:
        raise ValueError(f"{name} must rise, from {lowest} or more, got {list(pair)}.")
    return pair

# SPDX-License-Identifier: Apache-2.0
"""No mixer: the conformer's convolution alone carries frames to each other ("hard", arXiv 2601.19960, section 3)."""

from __future__ import annotations

from typing import ClassVar

from headrace.mixers.chunks import LoneChunkMixer
from headrace.mixers.mixer import Shape


class NoMixer(LoneChunkMixer):
    """Holds no weights and is never called; the block leaves its branch out."""

    sees_others: ClassVar[bool] = False

    def __init__(self, shape: Shape) -> None:
        super().__init__()

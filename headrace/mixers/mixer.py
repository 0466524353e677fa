# SPDX-License-Identifier: Apache-2.0
"""What a way to mix frames over time is: called under a reach, on whole utterances and live."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from headrace.positions import Rotation
from headrace.reach import Reach
from headrace.streaming import Entries, Live, Span


@dataclass(frozen=True)
class Shape:
    """What mixers are built from; each reads what it needs.

    embed_dim, num_heads: C and H, of which C is a multiple.
    attention_dropout: on attention weights, in training; only where ``supports_dropout``.
    positions: of the configuration.
    summary: "full", "lite" or "fast".
    """

    embed_dim: int
    num_heads: int
    attention_dropout: float = 0.0
    positions: str = "rotary"
    summary: str = "fast"


class Mixer(nn.Module):
    """A way to mix frames over time; a subclass says how, and under which reaches.

    reaches: the kinds that it can be called under.
    supports_dropout: on its weights.
    in_conformer: whether a conformer block may hold it, whose convolution knows final frames only.
    sees_others: whether a frame's result depends on other frames at all.
    is_tight: whether it depends on all frames of its reach, whatever the weights; a latency claim is then exact.
    remembers_everything: whether an unbounded look-back is a state of fixed size when live.
    """

    reaches: ClassVar[tuple[type, ...]]
    supports_dropout: ClassVar[bool] = False
    in_conformer: ClassVar[bool] = False
    sees_others: ClassVar[bool] = True
    is_tight: ClassVar[bool] = True
    remembers_everything: ClassVar[bool] = False

    @staticmethod
    def reach(look_ahead: int, look_back: int | None, hop: int | None) -> Reach:
        """The reach that a configuration asks for."""
        raise NotImplementedError

    def forward(
        self,
        x: torch.Tensor,
        lengths: torch.Tensor | None,
        reach: Reach,
        rotation: Rotation | None = None,
        final_only: bool = False,
    ) -> torch.Tensor:
        """Mix frames. x: [N, T, C], or [N, P, hop+A, C] for ``Blocks``; lengths: [N] int64 frames. Same shape back.

        Under ``Blocks``, x may be [N, T, C], as in the first layer; the result is [N, P, hop+A, C] all the same, or the
        final rows [N, P, hop, C] with ``final_only``. ``rotation`` is for frames, or for rows under ``Blocks``.

        Raises:
            ValueError: this mixer cannot run under ``reach``.
        """
        raise NotImplementedError

    def entries(self, reach: Reach, hop: int, first_frame: int, is_first: bool) -> Entries:
        """Live: what it keeps of a stream.

        Args:
            hop: frames of a tick.
            first_frame: that of the first new frame.
            is_first: whether the rows of a frame are one, as they are below the first layer.
        """
        raise NotImplementedError

    def tick(
        self,
        asked: torch.Tensor,
        x: torch.Tensor,
        span: Span,
        reach: Reach,
        rotations: tuple[Rotation, Rotation] | None,
        live: Live,
        is_first: bool = False,
        final_only: bool = False,
    ) -> torch.Tensor:
        """Live: the result of the frames or rows ``asked``.

        Args:
            asked: [S, m, C]; under a ``Band`` look_ahead frames behind x, under ``Blocks`` the block's rows.
            x: [S, m, C], the new frames, or the block's rows.
            span: which frames the block's rows are, and which of them exist.
            rotations: of asked and of x.
            is_first: asked and x hold the new frames alone, and the block's other rows were projected before.
            final_only: give the block's final rows alone.
        """
        raise NotImplementedError

    def check_reach(self, reach: Reach) -> None:
        """Raise ValueError where this mixer cannot run under ``reach``."""
        if not isinstance(reach, self.reaches):
            names = " or ".join(kind.__name__ for kind in self.reaches)
            raise ValueError(f"{type(self).__name__} runs under {names}, got {reach}.")

# SPDX-License-Identifier: Apache-2.0
"""Acausal attention (AA): the attention of wav2vec 2.0 and HuBERT."""

from __future__ import annotations

from typing import ClassVar

from headrace.mixers.attention import Attention
from headrace.reach import Everything, Reach


class FullAttention(Attention):
    """Every frame sees the whole utterance; equals fairseq's and transformers' with the same weights."""

    reaches: ClassVar[tuple[type, ...]] = (Everything,)
    supports_dropout: ClassVar[bool] = True
    in_conformer: ClassVar[bool] = True

    @staticmethod
    def reach(look_ahead: int, look_back: int | None, hop: int | None) -> Reach:
        """Everything, whatever the configured look-ahead, look-back and hop."""
        return Everything()

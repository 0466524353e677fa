# SPDX-License-Identifier: Apache-2.0
"""Words as letters: the dictionary of 28 symbols, and the two libraries' spellings of a transcript."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

WORD_BOUNDARY = "|"
FAIRSEQ_ORDER = "|ETAONIHSRDLUMWCFGYPBVK'XJQZ"
"""Order of the published wav2vec 2.0 `dict.ltr.txt`: fine-tuned checkpoints number their outputs by it."""
S3PRL_ORDER = "|ETAONIHSRDLUMCWFGYPBVK'XJQZ"
"""Order of SUPERB's `char.dict` (C before W)."""


def letters(words: str) -> str:
    """'HELLO WORLD' -> 'H E L L O | W O R L D |', as fairseq's `.ltr` and s3prl's dataset have it."""
    return f"{' '.join(words.replace(' ', WORD_BOUNDARY))} {WORD_BOUNDARY}"


def unknown_characters(words: str) -> list[str]:
    """List the characters of `words` that the dictionary lacks, in order of appearance, each once."""
    known = set(S3PRL_ORDER) - {WORD_BOUNDARY} | {" "}
    return [character for character in dict.fromkeys(words) if character not in known]


def dictionary(order: str, transcripts: Iterable[str]) -> str:
    """Return a fairseq dictionary file: `symbol count` in a fixed order, counted over `transcripts`.

    All 28 symbols stand in it whether they occur or not, so that numbers mean the same letter in every corpus.
    Both libraries put <s>, <pad>, </s> and <unk> before them when they load the file.
    """
    counts = Counter("".join(letters(words).replace(" ", "") for words in transcripts))
    return "".join(f"{symbol} {counts[symbol]}\n" for symbol in order)

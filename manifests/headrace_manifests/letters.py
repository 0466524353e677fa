# SPDX-License-Identifier: Apache-2.0
"""Words as letters: which letters there are, in which order, and the two libraries' spellings of a transcript."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

WORD_BOUNDARY = "|"


@dataclass(frozen=True)
class Alphabet:
    """The letters of a corpus, the word boundary among them, in the order that outputs are numbered by.

    Args:
        fairseq_order: the order of `dict.ltr.txt`.
        s3prl_order: the same letters in the order of `char.dict`.
        described: what the letters are, for people.
    """

    fairseq_order: str
    s3prl_order: str
    described: str

    def unknown_characters(self, words: str) -> list[str]:
        """List the characters of `words` that are no letters, in order of appearance, each once."""
        known = set(self.s3prl_order) - {WORD_BOUNDARY} | {" "}
        return [character for character in dict.fromkeys(words) if character not in known]


ENGLISH = Alphabet(
    fairseq_order="|ETAONIHSRDLUMWCFGYPBVK'XJQZ",  # of wav2vec 2.0's dict.ltr.txt: fine-tuned checkpoints number by it
    s3prl_order="|ETAONIHSRDLUMCWFGYPBVK'XJQZ",  # of SUPERB's char.dict: C before W
    described="SUPERB's English ones, A-Z and the apostrophe; --letters FILE takes those of another language",
)


def read_alphabet(path: Path) -> Alphabet:
    """Read a file with one letter a line; the word boundary comes before them.

    Letters stand as they are after `str.upper`, which s3prl applies to every transcript. A letter is one code point, as
    both libraries split text: an accent that is written as a character of its own is a letter too.

    Raises:
        ValueError: naming the line: no single character, white space or the word boundary, lower case, or there twice.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"--letters: {path} is not UTF-8 at byte {error.start}; save it as UTF-8") from None
    found: dict[str, int] = {}
    for number, letter in enumerate(lines, start=1):
        if len(letter) != 1 or letter.isspace() or letter == WORD_BOUNDARY:
            wanted = f"one letter, other than white space and the word boundary {WORD_BOUNDARY}"
            raise ValueError(f"--letters: {path}, line {number}: expected {wanted}, got {letter!r}")
        if letter.upper() != letter:
            raise ValueError(
                f"--letters: {path}, line {number}: s3prl raises transcripts to upper case, where {letter!r} is "
                f"{letter.upper()!r}; give the letters of that"
            )
        if found.setdefault(letter, number) != number:
            raise ValueError(f"--letters: {path}, line {number}: {letter!r} stands in line {found[letter]} too")
    if not found:
        raise ValueError(f"--letters: {path} is empty; expected one letter a line")
    order = WORD_BOUNDARY + "".join(found)
    return Alphabet(order, order, f"the {len(found)} of {path}")


def letters(words: str) -> str:
    """'HELLO WORLD' -> 'H E L L O | W O R L D |', as fairseq's `.ltr` and s3prl's dataset have it."""
    return f"{' '.join(words.replace(' ', WORD_BOUNDARY))} {WORD_BOUNDARY}"


def dictionary(order: str, transcripts: Iterable[str]) -> str:
    """Return a fairseq dictionary file: `symbol count` in a fixed order, counted over `transcripts`.

    All symbols stand in it whether they occur or not, so that numbers mean the same letter in every corpus.
    Both libraries put <s>, <pad>, </s> and <unk> before them when they load the file.
    """
    counts = Counter("".join(letters(words).replace(" ", "") for words in transcripts))
    return "".join(f"{symbol} {counts[symbol]}\n" for symbol in order)

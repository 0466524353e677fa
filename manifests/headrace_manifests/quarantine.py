# SPDX-License-Identifier: Apache-2.0
"""The quarantine list: what was left out of a manifest, and why; and the share at which a run stops."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from headrace_manifests.files import write_whole

REASONS: dict[str, str] = {
    "empty": "no bytes, or no samples",
    "unreadable": "cannot be opened as audio, or not at all",
    "truncated": "decoding ends before the length that the header promises: cut off or damaged",
    "wrong_rate": "not 16000 Hz",
    "wrong_channels": "not mono",
    "not_finite": "a sample is NaN or infinite",
    "too_short": "shorter than --min-seconds",
    "too_long": "longer than --max-seconds",
    "bad_name": "a name that the two-column manifest, or s3prl, cannot hold, or a place outside the corpus's layout",
    "missing_audio": "a transcript or a label whose audio is not there",
    "missing_transcript": "audio without a transcript",
    "empty_transcript": "a transcript without a word",
    "bad_transcript_file": "a transcript file that s3prl cannot read, so that its whole chapter is left out",
    "unknown_character": "a transcript with a character that is no letter: see --letters",
    "missing_label": "audio that no label line names",
    "unknown_label": "an emotion that IEMOCAP does not have",
    "bad_line": "a label line with the wrong number of fields, or a label file that is not text",
    "duplicate_id": "an utterance that was already listed",
}

ASKED_FOR = ("too_short", "too_long")
"""Reasons that follow from the user's own limits: listed, but they do not make a corpus a bad one."""


@dataclass(frozen=True, order=True)
class Reject:
    """One row: a path relative to the corpus root, a key of `REASONS`, and what was found there."""

    path: str
    reason: str
    detail: str

    def __post_init__(self) -> None:
        assert self.reason in REASONS, self.reason

    @property
    def is_bad(self) -> bool:
        """Whether it counts towards --max-bad-percent."""
        return self.reason not in ASKED_FOR


def write_quarantine(path: Path, rejects: Iterable[Reject]) -> None:
    """Write `path<TAB>reason: detail` lines below a header, sorted; an empty list is written too."""
    rows = [f"{_one_line(r.path)}\t{r.reason}: {_one_line(r.detail)}\n" for r in sorted(set(rejects))]
    write_whole(path, "path\treason\n" + "".join(rows))


def _one_line(text: str) -> str:
    """Keep tabs, line ends and undecodable bytes of a file name visible and inside their cell."""
    return text.encode("utf-8", "backslashreplace").decode().translate({9: "\\t", 10: "\\n", 13: "\\r"})


def count_reasons(rejects: Iterable[Reject]) -> str:
    """'2 truncated, 1 wrong_rate', or 'none'."""
    counts = Counter(reject.reason for reject in rejects)
    return ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items())) or "none"


@dataclass(frozen=True)
class Tolerance:
    """How much of a corpus may be bad before a run refuses to go on.

    Args:
        max_bad_percent: 0 to 100, share of the files (or utterances) found.
    """

    max_bad_percent: float

    def is_exceeded(self, num_bad: int, num_found: int) -> bool:
        return num_bad > self.max_bad_percent / 100 * num_found

    def check(self, rejects: Sequence[Reject], num_found: int, quarantine: Path) -> None:
        """Raise, with the list already written to `quarantine`, when too much of the corpus is bad.

        Raises:
            ValueError: the share, the reasons, one example, and where the whole list is.
        """
        bad = sorted(reject for reject in rejects if reject.is_bad)
        if not self.is_exceeded(len(bad), num_found):
            return
        write_quarantine(quarantine, rejects)
        first = bad[0]
        raise ValueError(
            f"{len(bad)} of {num_found} entries are bad ({100 * len(bad) / num_found:.1f} %, allowed "
            f"{self.max_bad_percent:g} %): {count_reasons(bad)}; e.g. {_one_line(first.path)} "
            f"({first.reason}: {_one_line(first.detail)}). No manifest was written, only the list {quarantine}: "
            "repair or remove what it names, or allow more with --max-bad-percent"
        )

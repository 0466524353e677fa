# SPDX-License-Identifier: Apache-2.0
"""A manifest in parts, one for each process: fairseq's parts, under fairseq's names."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Manifest:
    """<folder>/<split>.tsv: the root folder, then file and number of samples on each line.

    rows: SHA-256 of all lines but the first; the same corpus in another place has the same.
    """

    path: Path
    root: Path
    names: Sequence[str]
    num_samples: Sequence[int]
    rows: str

    def __len__(self) -> int:
        return len(self.names)

    def audio(self, index: int) -> Path:
        """Where an utterance's file is."""
        return self.root / self.names[index]


@dataclass(frozen=True)
class Shard:
    """Part ``rank`` of ``nshard`` of a split."""

    split: str
    nshard: int
    rank: int

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.nshard:
            raise ValueError(f"rank must be from 0 to nshard - 1 = {self.nshard - 1}, got {self.rank}.")

    @property
    def stem(self) -> str:
        """What the files of this part are called, before .npy, .len and .km."""
        return f"{self.split}_{self.rank}_{self.nshard}"

    def indices(self, total: int) -> range:
        """Which of ``total`` utterances are in it; together all parts hold each once, in order. May be empty."""
        return range(round(total / self.nshard * self.rank), round(total / self.nshard * (self.rank + 1)))


def read_manifest(folder: Path, split: str) -> Manifest:
    """Read <folder>/<split>.tsv.

    Raises:
        ValueError: there is none, or a line of it has another form; names the line.
    """
    path = folder / f"{split}.tsv"
    if not path.is_file():
        raise ValueError(
            f"{path} is not there; make it with: python manifests/wav2vec_manifest.py CORPUS --dest {folder}"
        )
    root, rows = split_root(path)
    names, num_samples = [], []
    for number, line in enumerate(rows.decode().splitlines(), start=2):
        name, tab, count = line.strip().partition("\t")
        if not tab or not count.isdecimal():
            raise ValueError(f"{path}, line {number}: expected 'path<tab>number of samples', got {line!r}.")
        names.append(name)
        num_samples.append(int(count))
    return Manifest(path, Path(root.decode().strip()), names, num_samples, digest_of(rows))


def split_root(path: Path) -> tuple[bytes, bytes]:
    """A manifest's first line, which names the root folder, and all others."""
    root, _, rows = path.read_bytes().partition(b"\n")
    return root, rows


def digest_of(rows: bytes) -> str:
    """SHA-256 of all lines but the first: the same corpus in another place has the same."""
    return hashlib.sha256(rows.strip()).hexdigest()

# SPDX-License-Identifier: Apache-2.0
"""<split>_<rank>_<nshard>.npy and .len: the frames of a part of a manifest, and how many each utterance has.

Beside them .npy.note says what they were made of.

The .npy holds all frames one after the other, float32; the .len a number on each line. The .len appears last: where it
is, both are whole. A dump that was killed goes on after the last utterance that it had finished.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from headrace.checkpoint.files import written_whole
from headrace_labels.audio import read_audio
from headrace_labels.features import Features
from headrace_labels.shards import Manifest, Shard

NOTE_EVERY = 50  # utterances between two notes of how far a dump is
BYTES = 4  # of a number in float32


def dump(manifest: Manifest, shard: Shard, features: Features, folder: Path) -> None:
    """Write the frames of a part of a manifest; returns at once where they are.

    Raises:
        ValueError: audio that cannot be used, or there are frames of something else already; names the file.
        OSError: the disk is full; the same call goes on when there is room.
    """
    npy, lengths = folder / f"{shard.stem}.npy", folder / f"{shard.stem}.len"
    made_of = _note_of(npy)
    if lengths.is_file():
        if made_of.is_file() and made_of.read_text() != _note(manifest, features):
            raise ValueError(
                f"{npy} was dumped from another manifest or other features (another encoder, mixer, reach, layer or "
                f"--max_chunk): remove it and {lengths.name}, or dump into another folder."
            )
        print(f"{lengths} is there: nothing to do", flush=True)
        return
    folder.mkdir(parents=True, exist_ok=True)
    indices = shard.indices(len(manifest))
    counts = [features.num_frames(manifest.num_samples[index]) for index in indices]
    begun = npy.with_name(npy.name + ".partial")
    done = _done(begun, manifest, features)
    with begun.open("r+b" if done else "wb") as file:
        _write_header(file, sum(counts), features.dim)
        start = file.tell()
        file.seek(start + sum(counts[:done]) * features.dim * BYTES)
        file.truncate()
        bar = tqdm(range(done, len(indices)), initial=done, total=len(indices), desc=features.name, unit="utterance")
        for i in bar:
            index = indices[i]
            frames = features(read_audio(manifest.audio(index), manifest.num_samples[index]))
            assert frames.shape == (counts[i], features.dim), (manifest.names[index], frames.shape, counts[i])
            file.write(np.ascontiguousarray(frames, dtype=np.float32).tobytes())
            if (i + 1) % NOTE_EVERY == 0:
                _settle(file)
                _write_note(begun, i + 1, manifest, features)
        _settle(file)
    os.replace(begun, npy)
    with written_whole(made_of) as partial:
        partial.write_text(_note(manifest, features))
    with written_whole(lengths) as partial:
        partial.write_text("".join(f"{count}\n" for count in counts))
    _note_of(begun).unlink(missing_ok=True)


class FeatureFile:
    """Reads what ``dump`` wrote, by position, without keeping it in memory.

    made_of: SHA-256 of the manifest's rows and the key of the features; None where fairseq dumped them.

    Raises:
        ValueError: one of the two files is missing, or they do not fit each other; names them.
    """

    def __init__(self, stem: Path) -> None:
        self.npy, lengths = stem.with_name(stem.name + ".npy"), stem.with_name(stem.name + ".len")
        for path in (self.npy, lengths):
            if not path.is_file():
                raise ValueError(f"{path} is not there: the part was not dumped, or not to its end; dump it again.")
        try:
            frames = np.lib.format.open_memmap(self.npy, mode="r")
        except ValueError as error:  # cut short, or something else
            raise ValueError(f"{self.npy} is damaged: {error}; remove it and {lengths.name}, and dump again.") from None
        self.lengths = [int(line) for line in lengths.read_text().split()]
        self.num_frames = sum(self.lengths)
        if frames.ndim != 2 or frames.dtype != np.float32 or len(frames) != self.num_frames:
            raise ValueError(
                f"{self.npy} holds {list(frames.shape)} {frames.dtype}, and {lengths} speaks of {self.num_frames} "
                "frames: they are not of one dump. Remove both and dump the part again."
            )
        self.dim, self._start = frames.shape[1], frames.offset
        note = _note_of(self.npy)
        self.made_of = note.read_text().strip() if note.is_file() else None

    def read(self, first: int, count: int) -> np.ndarray:
        """Frames first .. first + count - 1: [count, dim]."""
        offset = self._start + first * self.dim * BYTES
        return np.fromfile(self.npy, np.float32, count * self.dim, offset=offset).reshape(count, self.dim)

    def utterances(self) -> Iterator[np.ndarray]:
        """The frames [T, dim] of each utterance."""
        first = 0
        for count in self.lengths:
            yield self.read(first, count)
            first += count


def _write_header(file: Any, num_frames: int, dim: int) -> None:
    header = {"descr": np.lib.format.dtype_to_descr(np.dtype(np.float32)), "fortran_order": False,
              "shape": (num_frames, dim)}  # fmt: skip
    np.lib.format.write_array_header_1_0(file, header)


def _settle(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())


def _note(manifest: Manifest, features: Features) -> str:
    return f"{manifest.rows} {features.key}\n"


def _note_of(begun: Path) -> Path:
    return begun.with_name(begun.name + ".note")


def _write_note(begun: Path, done: int, manifest: Manifest, features: Features) -> None:
    with written_whole(_note_of(begun)) as partial:
        partial.write_text(f"{done} {_note(manifest, features)}")


def _done(begun: Path, manifest: Manifest, features: Features) -> int:
    """Utterances that a killed dump of the same frames had finished."""
    with suppress(OSError, ValueError):
        done, _, note = _note_of(begun).read_text().partition(" ")
        if note == _note(manifest, features) and begun.is_file():
            return int(done)
    return 0

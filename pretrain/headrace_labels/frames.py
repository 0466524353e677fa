# SPDX-License-Identifier: Apache-2.0
"""Frames as k-means wants them: a sample, shuffled batches, or all in order; never all in memory."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np

from headrace_labels.audio import read_audio
from headrace_labels.feature_file import FeatureFile
from headrace_labels.features import Features
from headrace_labels.shards import Manifest

BLOCK = 500  # frames that are read in one piece: neighbours stay together, and the disk is read in megabytes


class Frames(Protocol):
    """Frames of this process: num_frames of dim numbers."""

    num_frames: int
    dim: int

    def in_order(self) -> Iterator[np.ndarray]:
        """All of them, in pieces [n, dim]."""
        ...

    def at(self, positions: np.ndarray) -> np.ndarray:
        """Those at ascending positions: [len(positions), dim]."""
        ...

    def digest(self) -> str:
        """Tells them from others."""
        ...


def drawn(total: int, share: float, seed: int) -> list[int]:
    """A share of ``total`` utterances, ascending (fairseq's --percent); -1 for all.

    Raises:
        ValueError: it is no share.
    """
    if share == -1:
        return list(range(total))
    if not 0 < share <= 1:
        raise ValueError(f"percent must be -1 or a share above 0 and at most 1, got {share}.")
    return sorted(np.random.default_rng(seed).choice(total, math.ceil(share * total), replace=False).tolist())


class StoredFrames:
    """Frames in the files of a dump.

    Args:
        share: of the utterances, drawn by ``seed`` (fairseq's --percent); -1 for all of them.

    Raises:
        ValueError: there are none, or files of frames of different sizes, or no share.
    """

    def __init__(self, files: Sequence[FeatureFile], share: float = -1, seed: int = 0) -> None:
        files = [file for file in files if file.num_frames]
        if not files:
            raise ValueError("there is no frame to cluster: every utterance is shorter than a window.")
        self.dim = files[0].dim
        for file in files:
            if file.dim != self.dim:
                raise ValueError(f"{file.npy} has frames of {file.dim} numbers, {files[0].npy} of {self.dim}.")
        self._blocks = [block for file in files for block in _blocks(file, share, seed)]
        self.num_frames = sum(count for _, _, count in self._blocks)

    def digest(self) -> str:
        """Tells other frames from these: by their number and every hundredth block."""
        found = hashlib.sha256(f"{self.num_frames} {self.dim}".encode())
        for file, first, count in self._blocks[::100]:
            found.update(file.read(first, count).tobytes())
        return found.hexdigest()

    def in_order(self) -> Iterator[np.ndarray]:
        """All of them, in pieces [n, dim]."""
        for file, first, count in self._blocks:
            yield file.read(first, count)

    def shuffled(self, size: int, seed: int) -> Iterator[np.ndarray]:
        """All of them once, in batches [size, dim] of blocks in an order drawn by ``seed``; the last one is smaller."""
        held: list[np.ndarray] = []
        for index in np.random.default_rng(seed).permutation(len(self._blocks)):
            file, first, count = self._blocks[index]
            held.append(file.read(first, count))
            while sum(map(len, held)) >= size:
                joined = np.concatenate(held)
                yield joined[:size]
                held = [joined[size:]]
        if rest := [piece for piece in held if len(piece)]:
            yield np.concatenate(rest)

    def at(self, positions: np.ndarray) -> np.ndarray:
        """Those at ascending positions: [len(positions), dim]."""
        found, before = [np.zeros((0, self.dim), np.float32)], 0
        for file, first, count in self._blocks:
            begin, end = np.searchsorted(positions, [before, before + count])
            if end > begin:
                found.append(file.read(first, count)[positions[begin:end] - before])
            before += count
        return np.concatenate(found)


def _blocks(file: FeatureFile, share: float, seed: int) -> Iterator[tuple[FeatureFile, int, int]]:
    """(file, first, count) of pieces of at most BLOCK frames."""
    runs = [(0, file.num_frames)]
    if share != -1:
        ends = np.cumsum(file.lengths)
        runs = [(int(ends[i]) - file.lengths[i], file.lengths[i]) for i in drawn(len(ends), share, seed)]
    for first, count in runs:
        for begin in range(first, first + count, BLOCK):
            yield file, begin, min(BLOCK, first + count - begin)


class LiveFrames:
    """Frames computed from audio each time they are asked for: slower, and nothing on the disk.

    Args:
        indices: the utterances of this process.
    """

    def __init__(self, manifest: Manifest, indices: Sequence[int], features: Features) -> None:
        self._manifest, self._indices, self._features = manifest, indices, features
        self._counts = [features.num_frames(manifest.num_samples[index]) for index in indices]
        self.num_frames, self.dim = sum(self._counts), features.dim

    def in_order(self) -> Iterator[np.ndarray]:
        """All of them, an utterance at a time."""
        for index in self._indices:
            yield self._frames(index)

    def at(self, positions: np.ndarray) -> np.ndarray:
        """Those at ascending positions: [len(positions), dim]; utterances without one are not read."""
        found, before = [np.zeros((0, self.dim), np.float32)], 0
        for index, count in zip(self._indices, self._counts, strict=True):
            begin, end = np.searchsorted(positions, [before, before + count])
            if end > begin:
                found.append(self._frames(index)[positions[begin:end] - before])
            before += count
        return np.concatenate(found)

    def digest(self) -> str:
        """Of the whole manifest and the features: the same in every process."""
        return f"{self._manifest.rows} {self._features.key}"

    def _frames(self, index: int) -> np.ndarray:
        return self._features(read_audio(self._manifest.audio(index), self._manifest.num_samples[index]))

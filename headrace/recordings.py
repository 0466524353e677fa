# SPDX-License-Identifier: Apache-2.0
"""Many recordings on a disk: found, read whole or to a limit, counted on the way; each bad one with its reason."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from headrace import stream
from headrace.durations import clock

SUFFIXES = (".flac", ".wav")
PROGRESS_SECONDS = 5.0


def find(sources: Iterable[str | Path]) -> list[Path]:
    """Files as they are named, and all .flac and .wav files under folders, in the order of their names; each once.

    Raises:
        ValueError: neither a file nor a folder.
    """
    found: dict[Path, None] = {}
    for source in map(Path, sources):
        if not source.exists():
            raise ValueError(f"{source} is neither a file nor a folder; expected audio, or a folder that holds some.")
        inside = sorted(path for path in source.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
        found |= dict.fromkeys(inside if source.is_dir() else [source])
    return list(found)


def read(path: Path, sample_rate: int, least_samples: int, most_samples: int) -> tuple[np.ndarray, bool]:
    """Samples [n] float32, at most the first ``most_samples``, and whether there were more.

    Raises:
        ValueError: unreadable, empty, too short, of another rate or more channels, not finite; names the file.
    """
    chunks, num_samples = [], 0
    for chunk in stream.of_file(path, sample_rate):
        chunks.append(chunk)
        num_samples += len(chunk)
        if num_samples > most_samples:
            break
    if num_samples == 0:
        raise ValueError(f"{path} is empty: it holds no samples.")
    if num_samples < least_samples:
        raise ValueError(f"{path} is too short: {num_samples} samples, and a frame needs {least_samples}.")
    samples = np.concatenate(chunks)[:most_samples]
    if not np.isfinite(samples).all():
        raise ValueError(f"{path} holds NaN or infinity.")
    return samples, num_samples > most_samples


def counted(paths: Sequence[Path], say: Callable[[str], None]) -> Iterator[Path]:
    """The paths; now and then, how many are done and how long the rest will take."""
    start = told = time.monotonic()
    for done, path in enumerate(paths):
        now = time.monotonic()
        if done and now - told >= PROGRESS_SECONDS:
            told = now
            left = (now - start) / done * (len(paths) - done)
            say(f"[{clock(now - start)}, about {clock(left)} left]  {done} of {len(paths)} files")
        yield path

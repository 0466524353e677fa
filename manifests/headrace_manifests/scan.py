# SPDX-License-Identifier: Apache-2.0
"""Measure many files: in parallel, with progress, and going on from what a killed run had measured."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass, field
from pathlib import Path

from tqdm import tqdm

from headrace_manifests.audio import Limits, Measurement, measure
from headrace_manifests.files import name_fault
from headrace_manifests.quarantine import Reject, Tolerance

CACHE_NAME = "scan_cache.jsonl"
Fault = tuple[str, str]
"""Why a file is left out: a key of `quarantine.REASONS`, and what was found."""
SLICE = 4096
"""Files handed to the pool at a time: bounds memory for corpora of millions of files."""


@dataclass(frozen=True)
class Scan:
    """Where to look and how: the settings that all commands share.

    Args:
        root: real path of the corpus.
        dest: folder of the outputs; the cache lies there too.
        workers: threads (decoding releases the GIL).
        resume: trust measurements of earlier runs for files whose size and time of change are the same.
    """

    root: Path
    dest: Path
    limits: Limits
    tolerance: Tolerance
    workers: int
    resume: bool

    @property
    def quarantine(self) -> Path:
        return self.dest / "quarantine.tsv"

    def measure_all(self, names: Sequence[str]) -> tuple[dict[str, int], list[Reject]]:
        """Measure `names` (relative to root).

        Returns:
            {name: number of samples} of the files kept, in the order of `names`; and the files left out.

        Raises:
            ValueError: as soon as more files are bad than the tolerance allows.
        """
        kept: dict[str, int] = {}
        rejects: list[Reject] = []
        num_bad = 0
        with Cache(self.dest / CACHE_NAME, self.root, self.resume) as cache:
            for name, fault, num_samples in self._judged(names, cache):
                if fault is None:
                    kept[name] = num_samples
                    continue
                rejects.append(Reject(name, *fault))
                num_bad += rejects[-1].is_bad
                if self.tolerance.is_exceeded(num_bad, len(names)):
                    self.tolerance.check(rejects, len(names), self.quarantine)
        return kept, rejects

    def _judged(self, names: Sequence[str], cache: Cache) -> Iterator[tuple[str, Fault | None, int]]:
        bar = tqdm(total=len(names), unit="file", desc="scan", mininterval=0.5, dynamic_ncols=True)
        with bar, ThreadPoolExecutor(self.workers) as pool:
            for start in range(0, len(names), SLICE):
                part = names[start : start + SLICE]
                try:
                    for name, measured in zip(part, pool.map(cache.measure, part), strict=True):
                        bar.update()
                        spelling = name_fault(name)
                        fault = ("bad_name", spelling) if spelling else self.limits.fault(measured)
                        yield name, fault, measured.num_samples
                except BaseException:
                    pool.shutdown(wait=True, cancel_futures=True)
                    raise


@dataclass
class Cache:
    """Measurements by file, appended line by line, so that a kill loses at most the line being written.

    The first line names the root; a cache of another root is started anew. `unreadable` files are not
    remembered: a missing permission or a sleeping network drive may be mended without the file changing.
    """

    path: Path
    root: Path
    resume: bool
    known: dict[str, tuple[list[int], Measurement]] = field(default_factory=dict, init=False)

    def __enter__(self) -> Cache:
        header = json.dumps({"headrace_scan_cache": 1, "root": str(self.root)})
        self.path.parent.mkdir(parents=True, exist_ok=True)
        fresh = not (self.resume and self._load(header))
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | (os.O_TRUNC if fresh else 0)
        self._descriptor = os.open(self.path, flags, 0o666)
        # After a kill the last line may lack its end; what is appended must not become part of it.
        self._append(header if fresh else "")
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)

    def _append(self, line: str) -> None:
        # One system call per line: lines of several threads do not mix, and nothing waits in a buffer.
        os.write(self._descriptor, f"{line}\n".encode())

    def _load(self, header: str) -> bool:
        """Read what is there; False when there is nothing to go on from."""
        try:
            lines = self.path.read_text(encoding="utf-8", errors="replace").split("\n")
        except FileNotFoundError:
            return False
        if lines[0] != header:
            return False
        for line in lines[1:]:
            # Torn by a kill or a full disk: measured again, no harm done.
            with contextlib.suppress(ValueError, TypeError):
                name, stamp, measured = json.loads(line)
                self.known[name] = (stamp, Measurement(*measured))
        return True

    def measure(self, name: str) -> Measurement:
        """Measure one file, or remember it. Called from several threads."""
        path = self.root / name
        try:
            status = path.stat()
        except OSError as error:
            return Measurement(0, 0, 0, "unreadable", str(error.strerror))
        stamp = [status.st_size, status.st_mtime_ns]
        remembered = self.known.get(name)
        if remembered is not None and remembered[0] == stamp:
            return remembered[1]
        measured = measure(path)
        if measured.fault != "unreadable":
            self._append(json.dumps([name, stamp, astuple(measured)]))
        return measured

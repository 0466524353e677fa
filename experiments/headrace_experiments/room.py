# SPDX-License-Identifier: Apache-2.0
"""Whether the disk has room for the features of frozen encoders, which heads are trained on.

downstream/run.py keeps them (headrace_downstream/feature_cache.py) while a head is trained: float32, every hidden
state. Under a small encoder an hour of speech takes a gigabyte, and LibriSpeech's hundred take 100 GB: there, the
frozen encoder had better run at each step.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import soundfile

from headrace_experiments.experiment import Experiment
from headrace_experiments.plan import FEATURE_CACHE, Speech
from headrace_pretraining.shape import CONFIGS, shape_of
from headrace_stages.stage import RunFolder

BYTES_PER_CHANNEL = 4 * 50
"""A second of a channel of a hidden state: float32, 50 frames."""
PLAIN_BYTES = 240 * 4 * 100
"""A second of s3prl's fbank: 80 bands with two derivatives, 100 frames. Other upstreams without weights take less."""
SHARE = 0.5
"""Of the free disk, at most, for features: checkpoints and other people need some of it."""
SAMPLED = 64


@dataclass(frozen=True)
class Need:
    """What the features of one stage would take."""

    stage: str
    hours: float
    num_bytes: float


def needs(experiment: Experiment, speech: Speech) -> list[Need]:
    """What each stage that trains a head would keep."""
    shapes = {name: shape_of(one.configuration, one.overrides, CONFIGS) for name, one in experiment.pretraining.items()}
    found = []
    for task in experiment.tasks:
        seconds = seconds_of(experiment, speech, task)
        for name, row in experiment.rows.items():
            shape = shapes[row.source] if row.source else None
            rate = (shape.layers + 1) * shape.width * BYTES_PER_CHANNEL if shape else PLAIN_BYTES
            found.append(Need(f"{task}-{name}", seconds / 3600, seconds * rate))
    return found


def without_room(needs: Iterable[Need], folder: RunFolder, jobs: int) -> tuple[list[Need], float]:
    """The needs that are too large when `jobs` such stages run at a time; and the bytes that are free."""
    place = next(parent for parent in (folder.root, *folder.root.parents) if parent.exists())
    kept = sum(_bytes_below(path) for path in folder.root.glob(f"stages/*/{FEATURE_CACHE[1]}"))
    free = shutil.disk_usage(place).free + kept
    return [need for need in needs if need.num_bytes * jobs > SHARE * free], free


def told(left_out: list[Need], free: float) -> str:
    """The line that says which features are not kept, and why."""
    most = max(left_out, key=lambda need: need.num_bytes)
    stages, size = ", ".join(need.stage for need in left_out), f"{most.num_bytes / 1e9:.0f} GB"
    return (
        f"no features are kept for {stages}: {most.hours:.0f} h of speech take up to {size} each, "
        f"{free / 1e9:.0f} GB are free; the encoders run at each step, which is slow"
    )


def seconds_of(experiment: Experiment, speech: Speech, task: str) -> float:
    """How much speech a task reads, of files from a sample of their headers."""
    if speech.is_synthesised[0 if task == "asr" else 1]:
        parts = ("train", "dev", "test") if task == "asr" else ("emotion",)
        return 60 * sum(experiment.corpora.synthesise.get(f"{part}_minutes", 0) for part in parts)
    if task == "asr":
        return estimated_seconds(speech.asr / name for name in vars(speech.splits).values())
    return estimated_seconds(speech.ser / f"Session{number}" / "sentences" for number in range(1, 6))


def estimated_seconds(folders: Iterable[Path]) -> float:
    """Seconds of the FLAC and WAV files below some folders: their bytes, by the seconds per byte of every n-th one."""
    files = [(path, path.stat().st_size) for folder in folders for path in _sound_below(folder)]
    seconds = num_bytes = 0.0
    for path, size in files[:: max(1, len(files) // SAMPLED)]:
        try:
            seconds += soundfile.info(path).duration
        except (soundfile.SoundFileError, OSError):  # the manifests name it
            continue
        num_bytes += size
    return sum(size for _, size in files) * seconds / num_bytes if num_bytes else 0.0


def _sound_below(folder: Path) -> list[Path]:
    return sorted(path for path in _files_below(folder) if path.suffix in (".flac", ".wav"))


def _bytes_below(folder: Path) -> int:
    return sum(path.stat().st_size for path in _files_below(folder))


def _files_below(folder: Path) -> list[Path]:
    found = [Path(parent, name) for parent, _, names in os.walk(folder, followlinks=True) for name in names]
    return [path for path in found if path.is_file()]

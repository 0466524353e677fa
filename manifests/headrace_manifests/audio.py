# SPDX-License-Identifier: Apache-2.0
"""One audio file: decode it whole, count its samples, and name what is wrong with it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

SAMPLE_RATE = 16_000
BLOCK_SAMPLES = 30 * SAMPLE_RATE
UNKNOWN_LENGTH = 2**40
"""libsndfile reports the largest integer for a FLAC stream whose header leaves the length open."""


@dataclass(frozen=True)
class Measurement:
    """What decoding a file showed; `fault` is a key of `quarantine.REASONS`, None when the file is sound.

    Facts only: which rate or duration is wanted is `Limits`' business, so that a stored measurement stays
    true when the wishes change.
    """

    num_samples: int
    sample_rate: int
    channels: int
    fault: str | None = None
    detail: str = ""

    @property
    def seconds(self) -> float:
        return self.num_samples / self.sample_rate


def measure(path: Path) -> Measurement:
    """Decode `path` to its end; never raises for what is in the file.

    The header alone proves nothing: half a FLAC file still announces its full length.
    """
    try:
        if path.stat().st_size == 0:
            return Measurement(0, 0, 0, "empty", "0 bytes")
        with soundfile.SoundFile(path) as file:
            return _decode(file)
    except (OSError, soundfile.LibsndfileError) as error:
        detail = error.strerror if isinstance(error, OSError) else error.error_string
        return Measurement(0, 0, 0, "unreadable", str(detail))


def _decode(file: soundfile.SoundFile) -> Measurement:
    decoded, finite = 0, True
    fault, detail = _cut_wav(file)
    try:
        while block_samples := len(block := file.read(BLOCK_SAMPLES, dtype="float32")):
            decoded += block_samples
            finite = finite and bool(np.isfinite(block).all())
    except soundfile.LibsndfileError as error:
        reason = error.error_string.removeprefix("Error : ").rstrip(".")
        fault, detail = "truncated", f"{reason} (header promises {file.frames} samples)"
    promised = file.frames
    if fault is None and decoded < promised < UNKNOWN_LENGTH:
        fault, detail = "truncated", f"{decoded} samples, header promises {promised}"
    if fault is None and decoded == 0:
        fault, detail = "empty", "0 samples"
    if fault is None and not finite:
        fault, detail = "not_finite", "NaN or infinite samples"
    return Measurement(decoded, file.samplerate, file.channels, fault, detail)


def _cut_wav(file: soundfile.SoundFile) -> tuple[str | None, str]:
    """See a WAV file that ends inside its data: libsndfile corrects the length silently and only logs it."""
    match = re.search(r"^data\s*: (\d+) \(should be (\d+)\)", file.extra_info, re.MULTILINE)
    if match is None:
        return None, ""
    promised, present = int(match[1]), int(match[2])
    # Programs that write to a pipe leave a placeholder near 2**31 or 2**32; the samples are all there.
    if promised <= present or promised >= 0x7FFF_0000:
        return None, ""
    return "truncated", f"{present} bytes of samples, header promises {promised}"


@dataclass(frozen=True)
class Limits:
    """Which durations are wanted; None leaves the upper end open."""

    min_seconds: float = 0.1
    max_seconds: float | None = None

    def __post_init__(self) -> None:
        if not self.min_seconds >= 0:
            raise ValueError(f"--min-seconds: expected 0 or more, got {self.min_seconds:g}")
        if self.max_seconds is not None and not self.max_seconds > self.min_seconds:
            raise ValueError(
                f"--max-seconds: expected more than --min-seconds ({self.min_seconds:g}), got {self.max_seconds:g}"
            )

    def fault(self, measured: Measurement) -> tuple[str, str] | None:
        """Return (reason, detail) of why a file is left out, None when it is kept."""
        if measured.fault is not None:
            return measured.fault, measured.detail
        if measured.sample_rate != SAMPLE_RATE:
            return "wrong_rate", f"{measured.sample_rate} Hz, expected {SAMPLE_RATE}; resample it"
        if measured.channels != 1:
            return "wrong_channels", f"{measured.channels} channels, expected 1; mix it down"
        if measured.seconds < self.min_seconds:
            return "too_short", f"{measured.seconds:.3f} s, at least {self.min_seconds:g} wanted"
        if self.max_seconds is not None and measured.seconds > self.max_seconds:
            return "too_long", f"{measured.seconds:.3f} s, at most {self.max_seconds:g} wanted"
        return None

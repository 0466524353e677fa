# SPDX-License-Identifier: Apache-2.0
"""The samples of an utterance, or why they cannot be had."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile

SAMPLE_RATE = 16000


def read_audio(path: Path, num_samples: int, sample_rate: int = SAMPLE_RATE) -> np.ndarray:
    """Samples [num_samples] float32, channels averaged as fairseq does.

    Raises:
        ValueError: unreadable, another rate, another length than the manifest says, NaN or infinity; names the file.
    """
    try:
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, OSError) as error:
        raise ValueError(
            f"{path} cannot be read: {error}; make the manifest again, it leaves out what is bad."
        ) from None
    if rate != sample_rate:
        raise ValueError(f"{path} has {rate} Hz, expected {sample_rate}; make the manifest again, it leaves it out.")
    if len(samples) != num_samples:
        raise ValueError(
            f"{path} has {len(samples)} samples, its manifest says {num_samples}: the corpus was edited since. Make "
            "the manifest and the labels again."
        )
    if not np.isfinite(samples).all():
        raise ValueError(f"{path} has samples that are NaN or infinite; make the manifest again, it leaves it out.")
    return samples.mean(1)

# SPDX-License-Identifier: Apache-2.0
"""How much labels tell of what was said: mutual information with the characters of transcripts.

No alignment is known: the characters of an utterance are spread evenly from its first loud frame to its last. That
blurs, so the number is small; it does not look at the labels, so it is fair between two sets of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sklearn.metrics import mutual_info_score

from headrace_labels.features import SAMPLE_RATE, read_audio
from headrace_labels.shards import Manifest

QUIET_DB = 35.0  # below the loudest frame
FRAME_SAMPLES = 400


@dataclass(frozen=True)
class Information:
    """Of labels about characters.

    share: I(character; label) / H(character), from 0 to 1 (the HuBERT paper's normalisation, section 4.5).
    frames, utterances: that it was measured on. clusters: that occur.
    """

    share: float
    frames: int
    utterances: int
    clusters: int


def measure(
    manifest: Manifest, labels: Iterable[np.ndarray], label_rate: float, transcripts: Mapping[str, str]
) -> Information:
    """Measure the labels [T] of a manifest's utterances, as far as transcripts are known by their names.

    Raises:
        ValueError: no utterance has a transcript.
    """
    codes, characters, utterances = [], [], 0
    for index, found in enumerate(labels):
        text = transcripts.get(Path(manifest.names[index]).stem, "").replace(" ", "")
        if not text or not len(found):
            continue
        samples = read_audio(manifest.audio(index), manifest.num_samples[index])
        spoken = spread(text, *loud_seconds(samples), len(found), label_rate)
        inside = spoken >= 0
        codes.append(found[inside])
        characters.append(spoken[inside])
        utterances += 1
    if not codes:
        raise ValueError("no utterance of the manifest has a transcript: give the corpus that its audio comes from.")
    code, character = np.concatenate(codes), np.concatenate(characters)
    shares = np.bincount(character) / len(character)
    entropy = -float(np.sum(shares[shares > 0] * np.log(shares[shares > 0])))
    share = float(mutual_info_score(character, code)) / entropy if entropy else 0.0
    return Information(share, len(code), utterances, len(np.unique(code)))


def loud_seconds(samples: np.ndarray) -> tuple[float, float]:
    """When speech begins and ends: the first and last frame that is not QUIET_DB below the loudest."""
    count = max(1, len(samples) // FRAME_SAMPLES)
    frames = samples[: count * FRAME_SAMPLES].reshape(count, -1)
    energy = np.square(frames).mean(1)
    loud = np.flatnonzero(energy >= energy.max() * 10 ** (-QUIET_DB / 10))
    return loud[0] * FRAME_SAMPLES / SAMPLE_RATE, (loud[-1] + 1) * FRAME_SAMPLES / SAMPLE_RATE


def spread(text: str, begin: float, end: float, num_labels: int, label_rate: float) -> np.ndarray:
    """The character [num_labels] (its code point) that each label's time falls on, -1 outside of begin .. end."""
    time = (np.arange(num_labels) + 0.5) / label_rate
    place = np.floor((time - begin) / max(end - begin, 1e-9) * len(text)).astype(int)
    points = np.array([ord(character) for character in text])
    return np.where((place >= 0) & (place < len(text)), points[place.clip(0, len(text) - 1)], -1)


def read_transcripts(corpus: Path) -> dict[str, str]:
    """Utterance -> words, of all *.trans.txt below a corpus in LibriSpeech layout."""
    found = {}
    for path in sorted(corpus.rglob("*.trans.txt")):
        for line in path.read_text(encoding="utf-8").splitlines():
            name, _, words = line.partition(" ")
            found[name] = words
    return found

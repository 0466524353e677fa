# SPDX-License-Identifier: Apache-2.0
"""How much labels tell of what was said: mutual information with the characters of transcripts.

No alignment is known: the characters of an utterance are spread evenly from its first loud frame to its last. That
blurs, so the number is small; it does not look at the labels, so it is fair between two sets of them.

More clusters tell more by chance alone, and clusters that know the speaker or the utterance tell which characters it
has: the same number with each utterance's characters in another order says how much of it that is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sklearn.metrics import mutual_info_score

from headrace_labels.audio import SAMPLE_RATE, read_audio
from headrace_labels.shards import Manifest

QUIET_DB = 35.0  # below the loudest frame
FRAME_SAMPLES = 400
SHUFFLES = 5  # of each utterance's characters, for what is told by chance


@dataclass(frozen=True)
class Information:
    """Of labels about characters.

    share: I(character; label) / H(character), from 0 to 1 (the HuBERT paper's normalisation, section 4.5).
    chance: the same with each utterance's characters in an order drawn at random, the mean of SHUFFLES.
    frames, utterances: that it was measured on. clusters: that occur.
    """

    share: float
    chance: float
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
    generator = np.random.default_rng(0)
    codes, orders, utterances = [], [], 0
    for index, found in enumerate(labels):
        text = transcripts.get(Path(manifest.names[index]).stem, "").replace(" ", "")
        if not text or not len(found):
            continue
        samples = read_audio(manifest.audio(index), manifest.num_samples[index])
        points = np.array([ord(character) for character in text])
        place = places(len(text), *loud_seconds(samples), len(found), label_rate)
        inside = place >= 0
        codes.append(found[inside])
        drawn = [generator.permutation(points) for _ in range(SHUFFLES)]
        orders.append(np.stack([order[place[inside]] for order in (points, *drawn)]))
        utterances += 1
    if not codes:
        raise ValueError("no utterance of the manifest has a transcript: give the corpus that its audio comes from.")
    code = np.concatenate(codes)
    share, *shuffled = (_share(character, code) for character in np.concatenate(orders, axis=1))
    return Information(share, float(np.mean(shuffled)), len(code), utterances, len(np.unique(code)))


def _share(character: np.ndarray, code: np.ndarray) -> float:
    shares = np.bincount(character) / len(character)
    entropy = -float(np.sum(shares[shares > 0] * np.log(shares[shares > 0])))
    return float(mutual_info_score(character, code)) / entropy if entropy else 0.0


def loud_seconds(samples: np.ndarray) -> tuple[float, float]:
    """When speech begins and ends: the first and last frame that is not QUIET_DB below the loudest."""
    count = max(1, len(samples) // FRAME_SAMPLES)
    frames = samples[: count * FRAME_SAMPLES].reshape(count, -1)
    energy = np.square(frames).mean(1)
    loud = np.flatnonzero(energy >= energy.max() * 10 ** (-QUIET_DB / 10))
    return loud[0] * FRAME_SAMPLES / SAMPLE_RATE, (loud[-1] + 1) * FRAME_SAMPLES / SAMPLE_RATE


def places(num_characters: int, begin: float, end: float, num_labels: int, label_rate: float) -> np.ndarray:
    """Which character [num_labels] each label's time falls on, spread over begin .. end; -1 outside."""
    time = (np.arange(num_labels) + 0.5) / label_rate
    place = np.floor((time - begin) / max(end - begin, 1e-9) * num_characters).astype(int)
    return np.where((place >= 0) & (place < num_characters), place, -1)


def read_transcripts(corpus: Path) -> dict[str, str]:
    """Utterance -> words, of all *.trans.txt below a corpus in LibriSpeech layout."""
    found = {}
    for path in sorted(corpus.rglob("*.trans.txt")):
        for line in path.read_text(encoding="utf-8").splitlines():
            name, _, words = line.partition(" ")
            found[name] = words
    return found

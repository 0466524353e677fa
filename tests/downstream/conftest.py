# SPDX-License-Identifier: Apache-2.0
"""Two tiny corpora made on the spot, in the layouts that s3prl's datasets read, and the lists that manifests/ would
write for them."""

import csv
import json
from pathlib import Path

import numpy
import pytest
import soundfile

RATE = 16000
EMOTIONS = {"neu": 0, "hap": 1, "ang": 2, "sad": 3}
SPEAKERS = {"train": ("11", "12"), "dev": ("21",), "test": ("31", "32")}


def tone(hertz: float, seconds: float, seed: int) -> numpy.ndarray:
    """A tone in noise, so that a head can learn something of it."""
    time = numpy.arange(int(RATE * seconds)) / RATE
    noise = numpy.random.default_rng(seed).normal(size=len(time))
    return (0.3 * numpy.sin(2 * numpy.pi * hertz * time) + 0.02 * noise).astype("float32")


def make_asr(root: Path, manifests: Path) -> None:
    """Three splits, four utterances of one word a speaker: high tones say HI, low ones say LO."""
    for split, speakers in SPEAKERS.items():
        rows = []
        for speaker in speakers:
            folder = root / split / speaker / "1"
            folder.mkdir(parents=True)
            lines = []
            for number in range(4):
                name = f"{speaker}-1-{number:04d}"
                seconds = 0.3 + 0.05 * number
                soundfile.write(
                    folder / f"{name}.flac",
                    tone((300, 2000)[number % 2], seconds, int(speaker) + number),
                    RATE,
                )
                lines.append(f"{name} {('LO', 'HI')[number % 2]}")
                rows.append((f"{split}/{speaker}/1/{name}.flac", int(RATE * seconds)))
            (folder / f"{speaker}-1.trans.txt").write_text("\n".join(lines) + "\n")
        write_bucket(manifests, split, rows)


def write_bucket(manifests: Path, split: str, rows: list[tuple[str, int]]) -> None:
    (manifests / "len_for_bucket").mkdir(parents=True, exist_ok=True)
    with (manifests / "len_for_bucket" / f"{split}.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["", "file_path", "length", "label"])
        table.writerows([index, path, length, ""] for index, (path, length) in enumerate(rows))


def make_emotion(root: Path, manifests: Path) -> None:
    """Five sessions of two speakers, each of whom says every class once: a tone of its own per class."""
    sessions = {}
    for session in range(1, 6):
        items = sessions[session] = []
        for speaker in "FM":
            for label, index in EMOTIONS.items():
                name = f"Ses0{session}F_impro01_{speaker}{index:03d}"
                path = f"Session{session}/sentences/wav/Ses0{session}F_impro01/{name}.wav"
                (root / path).parent.mkdir(parents=True, exist_ok=True)
                soundfile.write(root / path, tone(300.0 * (index + 1), 0.3, 10 * session + index), RATE)
                items.append({"path": path, "label": label, "speaker": f"Ses0{session}{speaker}"})
    for session, items in sessions.items():
        folder = manifests / "meta_data" / f"Session{session}"
        folder.mkdir(parents=True)
        others = [item for other, found in sessions.items() if other != session for item in found]
        for name, content in (("test", items), ("train", others)):
            (folder / f"{name}_meta_data.json").write_text(json.dumps({"labels": EMOTIONS, "meta_data": content}))


@pytest.fixture
def asr_corpus(tmp_path):
    """(corpus, manifests) for -d asr with splits train, dev, test."""
    make_asr(tmp_path / "asr", tmp_path / "asr_manifests")
    return tmp_path / "asr", tmp_path / "asr_manifests"


@pytest.fixture
def emotion_corpus(tmp_path):
    """(corpus, manifests) for -d emotion."""
    make_emotion(tmp_path / "emotion", tmp_path / "emotion_manifests")
    return tmp_path / "emotion", tmp_path / "emotion_manifests"

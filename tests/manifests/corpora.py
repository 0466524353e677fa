# SPDX-License-Identifier: Apache-2.0
"""Small corpora for the manifest tests: noise in the two layouts, and one file of every kind of bad audio."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile

SHARED_DATA = Path(__file__).parents[2].parent / "shared" / "data"
EMOTIONS = ("neu", "hap", "sad", "ang")


def noise(seconds: float, seed: int, sample_rate: int = 16_000) -> np.ndarray:
    return 0.1 * np.random.default_rng(seed).standard_normal(round(seconds * sample_rate))


def write_audio(path: Path, seconds: float = 0.5, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, noise(seconds, seed), 16_000)
    return path


def truncate(path: Path, seed: int) -> None:
    write_audio(path, 2.0, seed)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def write_bad(root: Path) -> dict[str, str]:
    """Write one file of every bad kind; return {path relative to root: reason}."""
    write_audio(root / "tenth.flac", 0.01)
    truncate(root / "half.flac", 1)
    truncate(root / "half.wav", 2)
    (root / "nothing.flac").touch()
    soundfile.write(root / "no_samples.wav", np.zeros(0), 16_000)
    soundfile.write(root / "telephone.wav", noise(0.5, 3, 8000), 8000)
    soundfile.write(root / "stereo.flac", np.stack([noise(0.5, 4), noise(0.5, 5)], axis=1), 16_000)
    poisoned = noise(0.5, 6)
    poisoned[4000] = np.nan
    soundfile.write(root / "nan.wav", poisoned, 16_000, subtype="FLOAT")
    (root / "text.flac").write_text("this is no audio\n" * 50)
    write_audio(root / "long.flac", 4.0)
    write_audio(root / "a\ttab.flac")
    return {
        "tenth.flac": "too_short",
        "half.flac": "truncated",
        "half.wav": "truncated",
        "nothing.flac": "empty",
        "no_samples.wav": "empty",
        "telephone.wav": "wrong_rate",
        "stereo.flac": "wrong_channels",
        "nan.wav": "not_finite",
        "text.flac": "unreadable",
        "long.flac": "too_long",
        "a\\ttab.flac": "bad_name",
    }


def write_libri(root: Path, chapters: int = 2, utterances: int = 4) -> Path:
    """Write train, dev and test splits, one speaker a chapter."""
    for offset, split in enumerate(("train", "dev", "test")):
        for chapter in range(1 + offset * 100, 1 + offset * 100 + chapters):
            folder = root / split / str(chapter) / "7"
            names = [f"{chapter}-7-{index:04d}" for index in range(utterances)]
            for index, name in enumerate(names):
                write_audio(folder / f"{name}.flac", 0.2 + 0.1 * index, seed=chapter + index)
            lines = [f"{name} DON'T STOP {'NOW ' * index}".rstrip() + "\n" for index, name in enumerate(names)]
            (folder / f"{chapter}-7.trans.txt").write_text("".join(lines))
    return root


def write_iemocap(root: Path, turns: int = 8) -> Path:
    """Write five sessions of one dialog; the turns alternate between its two speakers."""
    for session in range(1, 6):
        dialog = f"Ses0{session}F_impro01"
        lines = ["% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]\n"]
        for index in range(turns):
            turn = f"{dialog}_{'FM'[index % 2]}{index:03d}"
            write_audio(root / f"Session{session}/sentences/wav/{dialog}/{turn}.wav", 0.3, seed=10 * session + index)
            label = EMOTIONS[(index // 2) % 4]
            lines.append(f"\n[{index:.4f} - {index + 0.3:.4f}]\t{turn}\t{label}\t[2.5000, 2.5000, 2.5000]\n")
            lines.append("C-E1:\tNeutral;\t()\n")
        labels = root / f"Session{session}/dialog/EmoEvaluation/{dialog}.txt"
        labels.parent.mkdir(parents=True)
        labels.write_text("".join(lines))
    return root


def quarantined(dest: Path) -> dict[str, str]:
    """Read quarantine.tsv as {path: 'reason: detail'}."""
    lines = (dest / "quarantine.tsv").read_text().splitlines()
    assert lines[0] == "path\treason"
    return dict(line.split("\t") for line in lines[1:])

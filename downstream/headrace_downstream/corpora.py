# SPDX-License-Identifier: Apache-2.0
"""Where a task's audio and lists are, and whether they are fit: s3prl skips or misreads in silence what is not.

Per task: the paths in s3prl's configuration, filled in from run.py's --data and --manifests, and a check of every
utterance of the splits that a run will read: that its audio is there, mono, at the right rate and long enough, and
that its transcript or label is known.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import soundfile

SAMPLE_RATE = 16000
SHORTEST_SAMPLES = 640  # one frame of the slowest upstream (log-mel); s3prl's heads fail on an utterance of none
FOLDS = ("fold1", "fold2", "fold3", "fold4", "fold5")
MISSING = "???"
HERE = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Corpus:
    """What a run will read: utterances per split, who speaks each, and seconds of audio altogether."""

    num_utterances: dict[str, int]
    speakers: dict[str, str]
    seconds: float


def fill_in(task: str, datarc: dict[str, Any], data: Path | None, manifests: Path | None) -> None:
    """Put the paths of --data and --manifests into the `datarc` of s3prl's configuration, in place.

    Raises:
        ValueError: a path is still missing, or leads nowhere.
    """
    if task == "asr":
        own = (
            manifests / "char.dict" if manifests and (manifests / "char.dict").is_file() else HERE / "asr" / "char.dict"
        )
        # a dictionary that a checkpoint was trained with stays unless --manifests says otherwise
        dictionary = own if manifests or datarc.get("dict_path") == MISSING else None
        paths = {
            "libri_root": data,
            "bucket_file": manifests and manifests / "len_for_bucket",
            "dict_path": dictionary,
        }
    else:
        paths = {"root": data, "meta_data": manifests and manifests / "meta_data"}
    options = dict(zip(paths, ("--data", "--manifests", "--manifests"), strict=False))
    for key, path in paths.items():
        if path is not None:
            datarc[key] = str(path.resolve())
        if datarc.get(key, MISSING) == MISSING:
            raise ValueError(f"{options[key]}: missing; -d {task} needs {NEEDS[task]}")
        if not Path(datarc[key]).exists():
            raise ValueError(f"{options[key]}: {datarc[key]} is not there; -d {task} needs {NEEDS[task]}")


def check(task: str, datarc: dict[str, Any], splits: Iterable[str], fold: str) -> Corpus:
    """Check every utterance of the splits. See NEEDS for what is expected.

    Raises:
        ValueError: something would stop the run or spoil it; names the first such utterance, says how many there
        are and what to do.
    """
    root = Path(datarc["libri_root" if task == "asr" else "root"])
    lists = {
        split: _asr_list(datarc, split) if task == "asr" else _emotion_list(datarc, split, fold) for split in splits
    }
    paths = sorted({path for paths in lists.values() for path in paths})
    with ThreadPoolExecutor(8) as pool:
        headers = list(pool.map(lambda path: _header(root / path), paths))
    _refuse_any([problem for problem, _ in headers if problem], len(paths))
    if task == "asr":
        _check_transcripts(root, paths, Path(datarc["dict_path"]))
    return Corpus(
        num_utterances={split: len(found) for split, found in lists.items()},
        speakers={PurePosixPath(path).stem: SPEAKER_OF[task](path) for path in paths},
        seconds=sum(seconds for _, seconds in headers),
    )


def librispeech_speaker(path: str) -> str:
    """SPLIT/SPEAKER/CHAPTER/SPEAKER-CHAPTER-UTTERANCE.flac: the folder, as manifests/prepare_librispeech.py counts."""
    return PurePosixPath(path).parent.parent.name


def iemocap_speaker(path: str) -> str:
    """`Session1/.../Ses01F_impro01_M003.wav` is of the man of session 1, for the last letter tells who speaks; the
    first tells who wore the markers (s3prl's metadata takes that one for the speaker).
    """
    utterance = PurePosixPath(path).stem
    match = re.fullmatch(r"(Ses\d+)[FM]_.*_([FM])\w*", utterance)
    return match[1] + match[2] if match else utterance.split("_")[0]


# Who speaks the audio at a path of a task's lists: one rule for each layout.
SPEAKER_OF = {"asr": librispeech_speaker, "emotion": iemocap_speaker}


def _asr_list(datarc: dict[str, Any], split: str) -> list[str]:
    folder = Path(datarc["bucket_file"])
    there = sorted(path.stem for path in folder.glob("*.csv"))
    if not datarc.get(split):
        known = [key for key, value in datarc.items() if isinstance(value, list)]
        raise ValueError(f"-t {split}: the configuration knows no such split; it has {', '.join(known)}")
    found = []
    for name in datarc[split]:
        if name not in there:
            raise ValueError(_no_such_list(split, datarc[split], name, folder, there))
        with (folder / f"{name}.csv").open(encoding="utf-8", newline="") as file:
            found += [row["file_path"] for row in csv.DictReader(file)]
    if not found:
        raise ValueError(f"{folder}: the lists of split {split} are empty; run prepare_librispeech.py")
    return found


def _no_such_list(split: str, names: list[str], missing: str, folder: Path, there: list[str]) -> str:
    key = f"downstream_expert.datarc.{split}"
    message = f"-c: {key} is [{', '.join(names)}], and {folder} holds no {missing}.csv"
    if not there:
        return f"{message}, nor any other; run manifests/prepare_librispeech.py and give its --dest as --manifests"
    return (
        f"{message}, only {', '.join(f'{name}.csv' for name in there)}; name one of these in a configuration of your "
        f"own (downstream/README.md, Configurations) or by -o \"config.{key}=['{there[0]}']\", or prepare {missing}"
    )


def _emotion_list(datarc: dict[str, Any], split: str, fold: str) -> list[str]:
    # dev is cut off train by s3prl, at random
    name = f"{'test' if split == 'test' else 'train'}_meta_data.json"
    path = Path(datarc["meta_data"]) / fold.replace("fold", "Session") / name
    if not path.is_file():
        raise ValueError(f"{path}: not there; run prepare_iemocap.py, and give its --dest as --manifests")
    content = json.loads(path.read_text(encoding="utf-8"))
    if spaced := [label for label in content["labels"] if len(label.split()) != 1]:
        raise ValueError(f"{path}: label {spaced[0]!r} holds a space, which s3prl's result files cannot; rename it")
    for item in content["meta_data"]:
        if item["label"] not in content["labels"]:
            raise ValueError(
                f"{path}: {item['path']} has label {item['label']!r}, the labels are {', '.join(content['labels'])}"
            )
    if not content["meta_data"]:
        raise ValueError(f"{path}: holds no utterances; run prepare_iemocap.py")
    return [item["path"] for item in content["meta_data"]]


def _header(path: Path) -> tuple[str | None, float]:
    """(what is wrong or None, seconds)."""
    try:
        header = soundfile.info(path)
    except (soundfile.SoundFileError, OSError) as why:
        return (
            f"{path}: {'cannot be read as audio (' + str(why) + ')' if path.exists() else 'is not there'}",
            0.0,
        )
    if header.channels != 1:
        return (f"{path}: {header.channels} channels, expected one", 0.0)
    if header.samplerate != SAMPLE_RATE:
        return (f"{path}: {header.samplerate} Hz, expected {SAMPLE_RATE}", 0.0)
    if header.frames < SHORTEST_SAMPLES:
        return (f"{path}: {header.frames} samples, expected at least {SHORTEST_SAMPLES}", 0.0)
    return (None, header.frames / header.samplerate)


def _check_transcripts(root: Path, paths: list[str], dictionary: Path) -> None:
    symbols = {line.split()[0] for line in dictionary.read_text(encoding="utf-8").splitlines() if line.strip()}
    chapters: dict[Path, list[str]] = {}
    for path in paths:
        chapters.setdefault(Path(path).parent, []).append(path)
    problems = []
    for folder, inside in chapters.items():
        known = transcripts(root / folder)
        for path in inside:
            text = known.get(Path(path).stem)
            if not text:
                problems.append(f"{root / path}: has no transcript in {folder}")
            elif unknown := sorted(set(text.upper().replace(" ", "|")) - symbols):
                problems.append(f"{root / path}: transcript holds {' '.join(map(repr, unknown))}, not in {dictionary}")
    _refuse_any(problems, len(paths))


def transcripts(folder: Path) -> dict[str, str]:
    """Utterance -> words of a chapter's folder; empty where it has no transcript file."""
    path = folder / f"{folder.parent.name}-{folder.name}.trans.txt"
    if not path.is_file():
        return {}
    lines = (line.split(maxsplit=1) for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    return {name: rest[0].strip() if rest else "" for name, *rest in lines}


def _refuse_any(problems: list[str], out_of: int) -> None:
    if problems:
        raise ValueError(
            f"{problems[0]} ({len(problems)} of {out_of} utterances are unfit); "
            "prepare the manifests again, they leave such out"
        )


NEEDS = {
    "asr": "--data, a folder in LibriSpeech layout, and --manifests, what manifests/prepare_librispeech.py wrote",
    "emotion": "--data, a folder in IEMOCAP layout, and --manifests, what manifests/prepare_iemocap.py wrote",
}

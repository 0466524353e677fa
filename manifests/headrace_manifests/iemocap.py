# SPDX-License-Identifier: Apache-2.0
"""IEMOCAP's layout: SessionN/dialog/EmoEvaluation/DIALOG.txt, SessionN/sentences/wav/DIALOG/TURN.wav."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from headrace_manifests.files import find_files
from headrace_manifests.quarantine import Reject

EMOTIONS = {"neu": "neu", "hap": "hap", "exc": "hap", "ang": "ang", "sad": "sad"}
"""IEMOCAP's label -> SUPERB's class."""
OTHER_EMOTIONS = ("fru", "sur", "fea", "dis", "oth", "xxx")
"""Labels that IEMOCAP has and the four-class task leaves out; xxx: the raters did not agree."""
CLASSES = {"neu": 0, "hap": 1, "ang": 2, "sad": 3}
"""SUPERB's numbering."""


@dataclass
class Session:
    """One session: {path of the audio relative to the corpus root: class}, and what was left out.

    `num_unused` counts sound utterances whose emotion is none of the four.
    """

    name: str
    labels: dict[str, str] = field(default_factory=dict)
    rejects: list[Reject] = field(default_factory=list)
    num_unused: int = 0


def find_sessions(root: Path) -> list[str]:
    """List the session folders; raises ValueError when there are not the five that five folds need."""
    found = sorted(entry.name for entry in root.glob("Session*") if entry.is_dir())
    expected = [f"Session{number}" for number in range(1, 6)]
    if found != expected:
        raise ValueError(f"{root}: expected the folders Session1 to Session5, found {', '.join(found) or 'none'}")
    return found


def read_session(root: Path, name: str) -> Session:
    """Pair the labels of a session with its audio, without opening the audio.

    Raises:
        ValueError: the session has no label files.
    """
    evaluations = PurePosixPath(name, "dialog", "EmoEvaluation")
    label_files = sorted(path.name for path in (root / evaluations).glob("*.txt") if not path.name.startswith("."))
    if not label_files:
        raise ValueError(
            f"{root / evaluations}: no label files (*.txt); expected IEMOCAP's SessionN/dialog/EmoEvaluation"
        )
    wavs = PurePosixPath(name, "sentences", "wav")
    session = Session(name)
    audio: dict[str, str] = {}
    for path in (str(wavs / found) for found in find_files(root / wavs, ["wav"])):
        utterance = PurePosixPath(path).stem
        if audio.setdefault(utterance, path) != path:
            session.rejects.append(Reject(path, "duplicate_id", f"{utterance} is also {audio[utterance]}"))
    labelled: set[str] = set()
    for label_file in label_files:
        _read_labels(root, str(evaluations / label_file), audio, session, labelled)
    for utterance in sorted(audio.keys() - labelled):
        session.rejects.append(Reject(audio[utterance], "missing_label", "no label line names it"))
    return session


def _read_labels(root: Path, path: str, audio: dict[str, str], session: Session, labelled: set[str]) -> None:
    """Read one label file; its label lines start with '[', others are headers and single raters' votes."""
    try:
        lines = (root / path).read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        session.rejects.append(Reject(path, "bad_line", f"not UTF-8 at byte {error.start}"))
        return
    for number, line in enumerate(lines, start=1):
        if not line.startswith("["):
            continue
        fields = line.rstrip().split("\t")
        if len(fields) != 4:
            expected = "[start - end]<TAB>utterance<TAB>label<TAB>[V, A, D]"
            detail = f"line {number}: {len(fields)} fields, expected {expected}"
            session.rejects.append(Reject(path, "bad_line", detail))
            continue
        fault = _take(fields[1], fields[2], audio, session, labelled)
        if fault is not None:
            session.rejects.append(Reject(path, fault[0], f"line {number}: {fault[1]}"))


def _take(
    utterance: str, label: str, audio: dict[str, str], session: Session, labelled: set[str]
) -> tuple[str, str] | None:
    """Add one labelled utterance to the session; return (reason, detail) when it cannot be."""
    if utterance in labelled:
        return "duplicate_id", f"{utterance} was labelled before"
    labelled.add(utterance)
    if label not in EMOTIONS and label not in OTHER_EMOTIONS:
        return (
            "unknown_label",
            f"{utterance} is {label!r}, expected one of {', '.join((*EMOTIONS, *OTHER_EMOTIONS))}",
        )
    if utterance not in audio:
        return "missing_audio", f"{utterance}.wav is not below {session.name}/sentences/wav"
    if label in EMOTIONS and any(map(str.isspace, utterance)):
        return "bad_name", f"white space inside {utterance!r}, where s3prl ends the name in its list of predictions"
    if label in EMOTIONS:
        session.labels[audio[utterance]] = EMOTIONS[label]
    else:
        session.num_unused += 1
    return None


def speaker(path: str) -> str:
    """'Session1/.../Ses01F_impro01_M003.wav' -> 'Ses01M': who speaks the turn.

    s3prl's own script writes the first part of the name, which is who wore the motion-capture markers: half
    of the turns are the other actor's. Its dataset does not read the field; intervals by speaker need it.
    """
    stem = PurePosixPath(path).stem
    match = re.fullmatch(r"(Ses\d+)[FM]_.*_([FM])\w*", stem)
    return match[1] + match[2] if match else stem.split("_")[0]

# SPDX-License-Identifier: Apache-2.0
"""LibriSpeech's layout: SPLIT/SPEAKER/CHAPTER/SPEAKER-CHAPTER-UTTERANCE.flac and SPEAKER-CHAPTER.trans.txt."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from headrace_manifests.files import find_files
from headrace_manifests.letters import Alphabet
from headrace_manifests.quarantine import Reject

TRANSCRIPT_ENDING = ".trans.txt"
CHAPTER_DEPTH = 3
"""Parts of SPLIT/SPEAKER/CHAPTER: s3prl finds a transcript file, and we the speaker, by where they stand in it."""
WRONG_DEPTH = "expected SPLIT/SPEAKER/CHAPTER/FILE, which s3prl takes speaker and chapter from; move the file there"


@dataclass
class Split:
    """One split: {path of the audio relative to the corpus root: upper-case words}, and what was left out."""

    name: str
    words: dict[str, str] = field(default_factory=dict)
    rejects: list[Reject] = field(default_factory=list)

    @property
    def speakers(self) -> set[str]:
        return {PurePosixPath(audio).parts[-3] for audio in self.words}


def read_split(root: Path, name: str, alphabet: Alphabet) -> Split:
    """Pair the audio of a split with its transcripts in the alphabet's letters, without opening the audio.

    Raises:
        ValueError: the split is not there, or holds no audio.
    """
    if not (root / name).is_dir():
        present = sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
        raise ValueError(f"{root}: no split {name!r}; folders there: {', '.join(present) or 'none'}")
    audio = [f"{name}/{path}" for path in find_files(root / name, ["flac", "wav"])]
    if not audio:
        raise ValueError(f"{root / name}: no *.flac or *.wav; expected SPEAKER/CHAPTER/SPEAKER-CHAPTER-UTTERANCE.flac")
    chapters: dict[str, list[str]] = {}
    for path in audio:
        chapters.setdefault(str(PurePosixPath(path).parent), []).append(path)
    transcripts = [f"{name}/{path}" for path in find_files(root / name, [TRANSCRIPT_ENDING])]
    for path in transcripts:
        chapters.setdefault(str(PurePosixPath(path).parent), [])
    split = Split(name)
    seen: set[str] = set()
    for chapter in sorted(chapters):
        if len(PurePosixPath(chapter).parts) == CHAPTER_DEPTH:
            _read_chapter(root, chapter, chapters[chapter], split, seen, alphabet)
            continue
        beside = [path for path in transcripts if str(PurePosixPath(path).parent) == chapter]
        split.rejects += [Reject(path, "bad_name", WRONG_DEPTH) for path in chapters[chapter] or beside]
    return split


def _read_chapter(root: Path, chapter: str, audio: list[str], split: Split, seen: set[str], alphabet: Alphabet) -> None:
    """Sort one chapter's utterances into `split`; `seen` holds the utterance ids of the split so far."""
    path = f"{chapter}/{'-'.join(PurePosixPath(chapter).parts[-2:])}{TRANSCRIPT_ENDING}"
    transcripts, fault = _read_transcripts(root / path)
    if fault is not None:
        reason = "bad_transcript_file" if (root / path).exists() else "missing_transcript"
        split.rejects += [Reject(entry, reason, f"{path}: {fault}") for entry in audio or [path]]
        return
    for entry in audio:
        utterance = PurePosixPath(entry).stem
        words = transcripts.pop(utterance, None)
        fault_of_entry = _entry_fault(utterance, words, path, seen, alphabet)
        if fault_of_entry is None and words is not None:
            split.words[entry] = words
        elif fault_of_entry is not None:
            split.rejects.append(Reject(entry, *fault_of_entry))
        seen.add(utterance)
    for utterance in sorted(transcripts):
        if utterance not in seen:
            split.rejects.append(Reject(path, "missing_audio", f"{utterance} has a transcript, but no audio beside it"))


def _entry_fault(
    utterance: str, words: str | None, path: str, seen: set[str], alphabet: Alphabet
) -> tuple[str, str] | None:
    """Return (reason, detail) of why an utterance is left out, None when it is sound."""
    if utterance in seen:
        return "duplicate_id", f"{utterance} was listed before, and s3prl knows utterances by name alone"
    if "." in utterance:
        return "bad_name", "a dot inside the name, where s3prl ends the utterance's id"
    if words is None:
        return "missing_transcript", f"{path} has no line for {utterance}"
    if not words:
        return "empty_transcript", f"{path} has no words for {utterance}"
    unknown = alphabet.unknown_characters(words)
    if unknown:
        shown = ", ".join(f"{character!r} (U+{ord(character):04X})" for character in unknown)
        return "unknown_character", f"{shown} in {words!r}; the letters are {alphabet.described}"
    return None


def _read_transcripts(path: Path) -> tuple[dict[str, str], str | None]:
    """Return {utterance: upper-case words} and None, or {} and why s3prl's reader would stop on the file.

    s3prl reads the whole file to train on any of its lines, so a fault in it concerns the whole chapter.
    """
    try:
        lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except FileNotFoundError:
        return {}, "no such file"
    except UnicodeDecodeError as error:
        return {}, f"not UTF-8 at byte {error.start}"
    transcripts: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        fields = line.split()
        if not fields:
            return {}, f"line {number} is blank, which stops s3prl; remove the line"
        if fields[0] in transcripts:
            return {}, f"line {number} names {fields[0]} again; keep one of its transcripts"
        transcripts[fields[0]] = " ".join(fields[1:]).upper()
    return transcripts, None

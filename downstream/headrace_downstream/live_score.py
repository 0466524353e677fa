# SPDX-License-Identifier: Apache-2.0
"""What a portable folder with a head says live, step by step, of a split in LibriSpeech layout."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from headrace.encoder import SpeechEncoder
from headrace.head import CtcHead
from headrace.stream import Session, of_file
from headrace_downstream.corpora import transcripts
from headrace_downstream.predictions import Prediction


@dataclass(frozen=True)
class Utterance:
    """One line of a transcript file."""

    name: str
    speaker: str
    audio: Path
    text: str


def read_split(corpus: Path, split: str) -> list[Utterance]:
    """The utterances of CORPUS/SPLIT/SPEAKER/CHAPTER, by name.

    Raises:
        ValueError: there are none, or one has no audio.
    """
    found = [
        Utterance(name, folder.parent.name, folder / f"{name}.flac", text)
        for folder in sorted((corpus / split).glob("*/*"))
        for name, text in transcripts(folder).items()
    ]
    if not found:
        raise ValueError(f"{corpus / split}: no */*/*.trans.txt; --data needs a corpus in LibriSpeech layout")
    if missing := [utterance for utterance in found if not utterance.audio.is_file()]:
        raise ValueError(f"{missing[0].audio} is not there, and its transcript is ({len(missing)} such)")
    return found


def transcribe(encoder: SpeechEncoder, head: CtcHead, utterances: list[Utterance]) -> list[Prediction]:
    """Run every utterance as a live stream.

    Raises:
        ValueError: audio that cannot be read or has another rate; names the file.
    """
    said = []
    for utterance in tqdm(utterances, desc="live", unit="utterance"):
        session = Session(encoder, head)
        for samples in of_file(utterance.audio, encoder.config.sample_rate):
            session.feed(samples)
        session.finish()
        said.append(Prediction(utterance.name, utterance.speaker, utterance.text, session.text))
    return said

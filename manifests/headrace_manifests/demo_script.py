# SPDX-License-Identifier: Apache-2.0
"""Who says what in the demo corpus: the voices, the sentences, and how an emotion sounds. Tables, no audio."""

from __future__ import annotations

import random
from dataclasses import dataclass

from headrace_manifests.espeak import Prosody


@dataclass(frozen=True)
class Voice:
    """A speaker: a voice variant of espeak-ng with its usual pitch (0-100) and rate (words per minute)."""

    variant: str
    pitch: int
    rate: int

    @property
    def name(self) -> str:
        return f"en-us+{self.variant}"


READERS: dict[str, tuple[Voice, ...]] = {
    "train": (
        Voice("m1", 45, 160),
        Voice("f1", 50, 165),
        Voice("m3", 55, 150),
        Voice("Annie", 45, 175),
        Voice("m7", 40, 170),
        Voice("belinda", 52, 155),
        Voice("adam", 48, 165),
        Voice("grandma", 52, 160),
        Voice("Michael", 42, 155),
        Voice("steph", 55, 170),
        Voice("robert", 50, 145),
        Voice("Alex", 47, 165),
    ),
    "dev": (Voice("m4", 50, 160), Voice("Andrea", 52, 150), Voice("rob", 44, 155), Voice("shelby", 50, 165)),
    "test": (Voice("m5", 46, 165), Voice("aunty", 50, 160), Voice("travis", 52, 150), Voice("anika", 48, 145)),
}
"""Split -> its readers. No variant is heard in two splits. Variants with an echo (f2 to f5, m2, linda) and a few
others are not among them: what they say differs from process to process."""

ACTORS: tuple[tuple[Voice, Voice], ...] = (
    (Voice("f1", 52, 165), Voice("m6", 46, 160)),
    (Voice("Annie", 48, 160), Voice("benjamin", 50, 170)),
    (Voice("belinda", 50, 155), Voice("max", 44, 165)),
    (Voice("steph", 54, 170), Voice("edward2", 48, 155)),
    (Voice("aunty", 46, 165), Voice("Denis", 52, 160)),
)
"""Session -> its female and its male actor."""

WORDS: dict[str, tuple[str, ...]] = {
    "digit": ("ZERO", "ONE", "TWO", "THREE", "FOUR", "FIVE", "SIX", "SEVEN", "EIGHT", "NINE"),
    "colour": ("RED", "BLUE", "GREEN", "YELLOW", "WHITE", "BLACK"),
    "thing": ("LAMP", "DOOR", "WINDOW", "RADIO", "TABLE", "MACHINE"),
    "room": ("KITCHEN", "GARDEN", "OFFICE", "HALL"),
    "act": ("OPEN", "CLOSE", "START", "STOP", "MOVE", "FIND"),
    "name": ("ANNA", "PETER", "MARIA", "JAMES"),
    "day": ("MONDAY", "TUESDAY", "THURSDAY", "FRIDAY", "SUNDAY"),
}
SENTENCES: tuple[str, ...] = (
    "{act} THE {colour} {thing} IN THE {room}",
    "{act} AND {act} THE {colour} {thing}",
    "{name} CALLS {name} ON {day} AT {digit}",
    "CALL {name} AT {digit} {digit} {digit} {digit}",
    "{digit} {digit} {digit} {digit} {digit} {digit}",
    "THE {colour} {thing} AND THE {colour} {thing}",
    "ON {day} {name} AND {name} {act} THE {thing}",
)
"""What readers read: 48 words in all. What actors say is drawn from the same, whatever the emotion."""


@dataclass(frozen=True)
class Emotion:
    """A way of speaking, relative to the speaker's own: pitch and range in espeak's units, others as factors."""

    label: str
    pitch: float
    range: float
    rate: float
    volume: float


EMOTIONS: tuple[Emotion, ...] = (
    Emotion("neu", pitch=0, range=45, rate=1.0, volume=1.0),
    Emotion("hap", pitch=14, range=78, rate=1.06, volume=1.15),
    Emotion("sad", pitch=-8, range=20, rate=0.82, volume=0.65),
    Emotion("ang", pitch=5, range=68, rate=1.22, volume=1.6),
)
USUAL_VOLUME = 60
"""Of espeak's 0-200: leaves an angry voice room below clipping."""


def sentence(chance: random.Random) -> str:
    """Draw a sentence, in capitals."""
    words = chance.choice(SENTENCES).split()
    return " ".join(chance.choice(WORDS[word[1:-1]]) if word.startswith("{") else word for word in words)


def read_prosody(voice: Voice, chance: random.Random) -> Prosody:
    """Draw how a reader says one sentence."""
    return _prosody(voice, EMOTIONS[0], chance, spread=0.5)


def acted_prosody(voice: Voice, emotion: Emotion, chance: random.Random) -> Prosody:
    """Draw how an actor says one sentence; the spread makes neighbouring emotions overlap."""
    return _prosody(voice, emotion, chance, spread=1.0)


def _prosody(voice: Voice, emotion: Emotion, chance: random.Random, spread: float) -> Prosody:
    def vary(value: float, deviation: float, lowest: int, highest: int) -> int:
        return round(min(max(value + spread * deviation * chance.gauss(0, 1), lowest), highest))

    rate, volume = voice.rate * emotion.rate, USUAL_VOLUME * emotion.volume
    return Prosody(
        rate=vary(rate, 0.08 * rate, 90, 300),
        volume=vary(volume, 0.25 * volume, 15, 140),
        pitch=vary(voice.pitch + emotion.pitch, 7, 0, 99),
        range=vary(emotion.range, 14, 0, 99),
    )

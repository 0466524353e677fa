# SPDX-License-Identifier: Apache-2.0
"""Speak the demo corpus: one piece of work per voice, each in its own process, each appearing whole.

A voice's samples depend on the seed, the voice and its minutes alone; neither the number of workers nor a kill
in between changes a byte.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import soundfile
import soxr
from tqdm import tqdm

from headrace_manifests import demo_script as script
from headrace_manifests.audio import SAMPLE_RATE
from headrace_manifests.espeak import Espeak, Prosody
from headrace_manifests.files import place_folder, write_whole

NOISE_DECIBELS = (-66.0, -52.0)
"""Background noise below full scale: speech without any has frames of exact zeros, which no microphone gives."""
PASSING = ".partial"
"""Where parts are written until they are whole; hidden, so that no scan looks into it."""
FIRST_SPEAKER = {"train": 100, "dev": 200, "test": 300}


@dataclass(frozen=True)
class Reading:
    """A reader's part: SPLIT/SPEAKER/CHAPTER in LibriSpeech's layout below `root`."""

    root: Path
    split: str
    number: int
    seconds: float
    seed: int

    @property
    def folder(self) -> Path:
        return self.root / self.split / str(FIRST_SPEAKER[self.split] + self.number)

    def is_done(self) -> bool:
        return self.folder.is_dir()

    def speak(self) -> None:
        """Write the speaker's folder, under a passing name until it is whole."""
        chance = random.Random(f"{self.seed}/{self.split}/{self.number}")
        voice = script.READERS[self.split][self.number]
        passing = _passing_folder(self.root, f"{self.split}-{self.folder.name}")
        chapter = f"{self.folder.name}1"
        (passing / chapter).mkdir()
        lines = []
        espeak, spoken_seconds = Espeak(), 0.0
        while spoken_seconds < self.seconds:
            utterance = f"{self.folder.name}-{chapter}-{len(lines):04d}"
            text = script.sentence(chance)
            samples = _record(espeak, text, voice, script.read_prosody(voice, chance), chance)
            soundfile.write(passing / chapter / f"{utterance}.flac", samples, SAMPLE_RATE)
            lines.append(f"{utterance} {text}\n")
            spoken_seconds += len(samples) / SAMPLE_RATE
            _stop_without_parent()
        write_whole(passing / chapter / f"{self.folder.name}-{chapter}.trans.txt", "".join(lines))
        place_folder(passing, self.folder)


@dataclass(frozen=True)
class Acting:
    """An actor's part: one dialog of a session in IEMOCAP's layout below `root`, all four emotions in turn."""

    root: Path
    session: int
    number: int
    seconds: float
    seed: int

    @property
    def gender(self) -> str:
        return "FM"[self.number]

    @property
    def dialog(self) -> str:
        return f"Ses{self.session:02d}{self.gender}_demo01"

    @property
    def label_file(self) -> Path:
        return self.root / f"Session{self.session}" / "dialog" / "EmoEvaluation" / f"{self.dialog}.txt"

    def is_done(self) -> bool:
        return self.label_file.is_file()

    def speak(self) -> None:
        """Write the dialog's audio under a passing name, then its labels: where they stand, all of it stands."""
        chance = random.Random(f"{self.seed}/session{self.session}/{self.number}")
        voice = script.ACTORS[self.session - 1][self.number]
        passing = _passing_folder(self.root, self.dialog)
        lines = ["% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]\n"]
        espeak, start = Espeak(), 0.0
        while start < self.seconds:
            turn = f"{self.dialog}_{self.gender}{len(lines) - 1:03d}"
            emotion = script.EMOTIONS[(len(lines) - 1) % len(script.EMOTIONS)]
            prosody = script.acted_prosody(voice, emotion, chance)
            samples = _record(espeak, script.sentence(chance), voice, prosody, chance)
            soundfile.write(passing / f"{turn}.wav", samples, SAMPLE_RATE)
            end = start + len(samples) / SAMPLE_RATE
            lines.append(f"\n[{start:.4f} - {end:.4f}]\t{turn}\t{emotion.label}\t[nan, nan, nan]\n")
            start = end
            _stop_without_parent()
        folder = self.root / f"Session{self.session}" / "sentences" / "wav" / self.dialog
        shutil.rmtree(folder, ignore_errors=True)
        place_folder(passing, folder)
        write_whole(self.label_file, "".join(lines))


Part = Reading | Acting


def _passing_folder(root: Path, name: str) -> Path:
    """Make an empty, hidden folder on the same disk, of this process alone."""
    folder = root / PASSING / f"{name}.{os.getpid()}"
    folder.mkdir(parents=True)
    return folder


def _record(espeak: Espeak, text: str, voice: script.Voice, prosody: Prosody, chance: random.Random) -> np.ndarray:
    """Say `text` with a little noise around; return int16 samples at SAMPLE_RATE."""
    spoken = espeak.say(text.lower(), voice.name, prosody).astype(np.float32) / 2**15
    samples = soxr.resample(spoken, espeak.sample_rate, SAMPLE_RATE)
    noise = np.random.default_rng(chance.getrandbits(64)).standard_normal(len(samples), np.float32)
    samples += noise * np.float32(10 ** (chance.uniform(*NOISE_DECIBELS) / 20))
    return np.round(np.clip(samples, -1, 1) * (2**15 - 1)).astype(np.int16)


def _stop_without_parent() -> None:
    """Leave when the command was killed: nobody waits for this part any more."""
    parent = multiprocessing.parent_process()
    if parent is not None and not parent.is_alive():
        raise SystemExit(1)


def speak_all(parts: list[Part], workers: int) -> None:
    """Speak the parts that are not done, each in a fresh process, with progress in seconds of speech.

    Raises:
        ValueError: a part failed; its own message is above on stderr.
    """
    waiting = [part for part in parts if not part.is_done()]
    running: dict[BaseProcess, Part] = {}
    spoken_seconds = 0.0
    bar = tqdm(total=round(sum(p.seconds for p in waiting)), unit="s", desc="speak", dynamic_ncols=True)
    with bar:
        try:
            while waiting or running:
                while waiting and len(running) < workers:
                    process, part = _start(waiting.pop(0))
                    running[process] = part
                wait([process.sentinel for process in running])
                for process in [process for process in running if process.exitcode is not None]:
                    part = running.pop(process)
                    spoken_seconds += part.seconds
                    bar.update(round(spoken_seconds) - bar.n)
                    _check(process, part)
        finally:
            for process in running:
                process.kill()
                process.join()
    for root in {part.root for part in parts}:
        shutil.rmtree(root / PASSING, ignore_errors=True)


def _start(part: Part) -> tuple[BaseProcess, Part]:
    # A server that forks clean children: espeak's state must not pass on, and importing these once is enough.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["numpy", "soundfile", "soxr", "tqdm"])
    process = context.Process(target=part.speak, daemon=True)
    process.start()
    return process, part


def _check(process: BaseProcess, part: Part) -> None:
    process.join()
    if process.exitcode != 0 or not part.is_done():
        raise ValueError(f"speaking {part} failed (exit code {process.exitcode}); the cause stands above")

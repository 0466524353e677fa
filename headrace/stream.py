# SPDX-License-Identifier: Apache-2.0
"""One stream, live: samples from a file, a pipe or a microphone; frames, and text where there is a head.

Sources give float samples [n] as they come. `Session` turns them into frames and text; `run` drives it, says how late
it is, and ends it cleanly on the source's end or on Ctrl-C, with the tail.
"""

from __future__ import annotations

import contextlib
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import soundfile
import torch

from headrace.encoder import SpeechEncoder
from headrace.head import CtcHead, LstmState, Transcript

CHUNK_SECONDS = 0.02
REPORT_SECONDS = 1.0
LATE_MS = 500.0  # behind what the encoder claims, before a live source is told to be too fast


@dataclass(frozen=True)
class Given:
    """What a step of a session gave: frames [T, C] of the last hidden state, and the text that they add."""

    frames: torch.Tensor
    text: str = ""


class Session:
    """Samples in, frames and text out.

    With a head, the utterance's end is padded with zeros and cut as s3prl does before it scores, so that the text is
    that of s3prl; without, the frames are those of ``encoder(waveform)``.
    """

    def __init__(self, encoder: SpeechEncoder, head: CtcHead | None = None) -> None:
        self.encoder, self.head = encoder, head
        self._state = encoder.init_state(hidden_states="last" if head is None else "all")
        self._lstm: LstmState | None = None
        self._transcript = None if head is None else Transcript(head.config)
        self._like = next(encoder.parameters())
        self.num_samples = self.num_frames = 0

    @property
    def text(self) -> str:
        """All text so far."""
        return "" if self._transcript is None else self._transcript.text

    def feed(self, samples: np.ndarray) -> Given:
        """The next samples [n] in [-1, 1].

        Raises:
            ValueError: NaN or infinity among them; nothing was taken.
        """
        out, _ = self.encoder.step(torch.from_numpy(samples)[None].to(self._like), self._state)
        self.num_samples += len(samples)
        return self._given(out.hidden_states, out.last_hidden_state)

    def finish(self) -> Given:
        """The tail."""
        given = []
        if self.head is not None:
            padding = self.encoder.frontend.whole_samples(self.num_samples) - self.num_samples  # as the s3prl upstream
            out, _ = self.encoder.step(self._like.new_zeros(1, padding), self._state)
            given.append(self._given(out.hidden_states, out.last_hidden_state, self._num_scored()))
        out, _ = self.encoder.finish(self._state)
        limit = None if self.head is None else self._num_scored()
        given.append(self._given(out.hidden_states, out.last_hidden_state, limit))
        return Given(torch.cat([each.frames for each in given]), "".join(each.text for each in given))

    def _given(self, hidden_states: list[torch.Tensor], last: torch.Tensor, limit: int | None = None) -> Given:
        count = last.shape[1] if limit is None else min(last.shape[1], max(0, limit - self.num_frames))
        self.num_frames += count
        if self.head is None or self._transcript is None or count == 0:
            return Given(last[0, :count])
        with torch.no_grad():
            scores, self._lstm = self.head([x[:, :count] for x in hidden_states], self._lstm)
        return Given(last[0, :count], self._transcript.add(scores[0]))

    def _num_scored(self) -> int:
        """Frames that s3prl's featurizer keeps."""
        return round(self.num_samples / self.encoder.frontend.stride_samples)


# ---- sources ----


def of_file(path: str | Path, sample_rate: int) -> Iterator[np.ndarray]:
    """A file's samples, a chunk at a time.

    Raises:
        ValueError: it cannot be read, or has another rate or more channels.
    """
    try:
        with soundfile.SoundFile(path) as file:
            if file.samplerate != sample_rate or file.channels != 1:
                raise ValueError(
                    f"{path} has {file.samplerate} Hz and {file.channels} channel(s); the encoder hears {sample_rate} "
                    f"Hz, one channel: sox {path} -r {sample_rate} -c 1 converted.wav"
                )
            while len(samples := file.read(int(CHUNK_SECONDS * sample_rate), dtype="float32")):
                yield samples
    except (soundfile.LibsndfileError, soundfile.SoundFileRuntimeError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None


def of_pipe(pipe: BinaryIO, sample_rate: int) -> Iterator[np.ndarray]:
    """Raw 16-bit little-endian samples, one channel; half a sample at the end is left out."""
    size, rest = 2 * int(CHUNK_SECONDS * sample_rate), b""
    read: Callable[[int], bytes] = getattr(pipe, "read1", pipe.read)  # what is there, not what was asked for
    while data := read(size):
        data = rest + data
        rest = data[len(data) // 2 * 2 :]
        if len(data) > 1:
            yield np.frombuffer(data[: len(data) // 2 * 2], dtype="<i2").astype(np.float32) / 32768


def of_microphone(sample_rate: int) -> Iterator[np.ndarray]:
    """What the default input hears, until Ctrl-C. Nothing is dropped: what is late waits in a queue.

    Raises:
        ValueError: sounddevice is not installed, or there is no microphone.
    """
    try:
        import sounddevice  # pyright: ignore[reportMissingImports]
    except (ImportError, OSError) as error:  # OSError: PortAudio's library is not there
        raise ValueError(f"a microphone needs sounddevice: pip install 'headrace[mic]' ({error}).") from None
    heard: queue.SimpleQueue[np.ndarray] = queue.SimpleQueue()

    def keep(samples: np.ndarray, *_: Any) -> None:
        heard.put(samples[:, 0].copy())

    try:
        blocksize = int(CHUNK_SECONDS * sample_rate)
        with sounddevice.InputStream(sample_rate, blocksize, channels=1, dtype="float32", callback=keep):
            while True:
                yield heard.get()
    except sounddevice.PortAudioError as error:
        raise ValueError(f"no microphone: {error}") from None


def paced(chunks: Iterable[np.ndarray], sample_rate: int) -> Iterator[np.ndarray]:
    """Each chunk at the time when it would have been spoken."""
    start, given = time.perf_counter(), 0
    for chunk in chunks:
        given += len(chunk)
        wait = start + given / sample_rate - time.perf_counter()
        if wait > 0:
            time.sleep(wait)
        yield chunk


# ---- driving ----


@dataclass
class Progress:
    """Where a stream stands.

    audio_seconds: taken so far. frames: given so far. busy_seconds: spent computing.
    delay_seconds: of the newest frame, from its start to its output; by the clock where the source is live.
    """

    audio_seconds: float = 0.0
    frames: int = 0
    delay_seconds: float = 0.0
    busy_seconds: float = 0.0

    @property
    def real_time_factor(self) -> float:
        """Time spent for each unit of audio."""
        return self.busy_seconds / self.audio_seconds if self.audio_seconds else 0.0


def run(
    session: Session,
    chunks: Iterable[np.ndarray],
    on_given: Callable[[Given], None],
    on_progress: Callable[[Progress], None],
    is_live: bool,
) -> Progress:
    """Feed a session until its source ends or Ctrl-C, then finish it.

    Args:
        is_live: chunks come in real time, so that delay is told by the clock.
    """
    rate = session.encoder.config.sample_rate
    stride = session.encoder.frontend.stride_samples
    progress, start, told = Progress(), time.perf_counter(), 0.0
    interrupt = _Interrupt()

    def take(step: Callable[[], Given]) -> None:
        before = time.perf_counter()
        with interrupt.held():
            given = step()
        now = time.perf_counter()
        progress.busy_seconds += now - before
        progress.audio_seconds = session.num_samples / rate
        if len(given.frames):
            progress.frames = session.num_frames
            spoken = (session.num_frames - 1) * stride / rate
            heard = now - start if is_live else progress.audio_seconds
            progress.delay_seconds = heard - spoken
        on_given(given)

    with interrupt, contextlib.suppress(KeyboardInterrupt):
        for chunk in chunks:
            take(lambda chunk=chunk: session.feed(chunk))
            if progress.audio_seconds - told >= REPORT_SECONDS:
                told = progress.audio_seconds
                on_progress(progress)
    take(session.finish)
    on_progress(progress)
    return progress


class _Interrupt:
    """Ctrl-C between two steps, never inside one: a step moves all of a state or none of it."""

    def __init__(self) -> None:
        self._is_held = self._came = False
        self._before: Any = None

    def __enter__(self) -> None:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._interrupt)

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _interrupt(self, *_: object) -> None:
        if not self._is_held:
            raise KeyboardInterrupt
        self._came = True

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        self._is_held = True
        try:
            yield
        finally:
            self._is_held = False
        if self._came:
            self._came = False
            raise KeyboardInterrupt


def source_of(name: str, sample_rate: int, fast: bool) -> tuple[Iterator[np.ndarray], bool]:
    """The chunks of a file, of "-" (standard input) or of "mic", and whether they come in real time."""
    if name == "mic":
        return of_microphone(sample_rate), True
    if name == "-":
        return of_pipe(sys.stdin.buffer, sample_rate), not fast
    chunks = of_file(name, sample_rate)
    return (chunks, False) if fast else (paced(chunks, sample_rate), True)

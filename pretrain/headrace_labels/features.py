# SPDX-License-Identifier: Apache-2.0
"""Frames to cluster: MFCC for the first iteration, a layer of the last iteration's encoder after it."""

from __future__ import annotations

import hashlib
import json
from typing import Protocol

import kaldi_native_fbank
import numpy as np
import torch
from torch.nn import functional as F

from headrace.encoder import SpeechEncoder
from headrace_labels.audio import SAMPLE_RATE

NUM_CEPSTRA = 13
WINDOW_SAMPLES, HOP_SAMPLES = 400, 160
DELTA_REACH = 2  # frames on either side of a regression over time
MAX_CHUNK = 1_600_000  # samples that an encoder takes at once: 100 s


class Features(Protocol):
    """What turns samples into frames.

    name: for messages. key: tells them from others of the same name. dim: numbers in a frame. rate: frames a second.
    """

    name: str
    key: str
    dim: int
    rate: float

    def num_frames(self, num_samples: int) -> int:
        """How many frames an utterance has."""
        ...

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        """[num_samples] float32 in [-1, 1] -> [frames, dim] float32."""
        ...


class Mfcc:
    """Kaldi's 13 MFCC with first and second differences over time: 39 numbers, 100 frames a second.

    Kaldi's defaults (25 ms Povey windows, pre-emphasis 0.97, 23 mel bands, lifter 22), cepstrum 0 for energy, no
    dither, windows that lie inside the utterance.
    """

    name, key, dim, rate = "mfcc", "mfcc", 3 * NUM_CEPSTRA, SAMPLE_RATE / HOP_SAMPLES

    def __init__(self) -> None:
        options = kaldi_native_fbank.MfccOptions()
        options.frame_opts.samp_freq = SAMPLE_RATE
        options.frame_opts.dither = 0.0
        options.use_energy = False
        self._options = options

    def num_frames(self, num_samples: int) -> int:
        """Windows that lie inside the utterance."""
        return 0 if num_samples < WINDOW_SAMPLES else 1 + (num_samples - WINDOW_SAMPLES) // HOP_SAMPLES

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        """[num_samples] -> [frames, 39]."""
        if self.num_frames(len(samples)) == 0:
            return np.zeros((0, self.dim), dtype=np.float32)
        computer = kaldi_native_fbank.OnlineMfcc(self._options)
        computer.accept_waveform(SAMPLE_RATE, samples.tolist())
        computer.input_finished()
        cepstra = np.stack([computer.get_frame(i) for i in range(computer.num_frames_ready)])
        first = differences(cepstra)
        return np.concatenate([cepstra, first, differences(first)], axis=1).astype(np.float32)


def differences(frames: np.ndarray) -> np.ndarray:
    """The slope of a line through each frame and its two neighbours on either side; ends are repeated. [T, D]."""
    padded = np.pad(frames, ((DELTA_REACH, DELTA_REACH), (0, 0)), mode="edge")
    weights = range(-DELTA_REACH, DELTA_REACH + 1)
    slope = sum(n * padded[DELTA_REACH + n : DELTA_REACH + n + len(frames)] for n in weights)
    return slope / sum(n * n for n in weights)


class Layer:
    """Hidden states of one layer of an encoder, 0 being what the first layer sees.

    Args:
        encoder: in eval mode.
        layer: 0 to L.
        max_chunk: longer utterances are cut into pieces of about so many samples, which do not see each other.

    Raises:
        ValueError: the encoder has no such layer or takes another sample rate, or max_chunk is shorter than its window.
    """

    def __init__(self, encoder: SpeechEncoder, layer: int, max_chunk: int = MAX_CHUNK) -> None:
        config, frontend = encoder.config, encoder.frontend
        if not 0 <= layer <= config.num_layers:
            raise ValueError(f"layer must be from 0 to {config.num_layers}, the layers of this encoder, got {layer}.")
        if config.sample_rate != SAMPLE_RATE:
            raise ValueError(
                f"encoder: expected one of speech at {SAMPLE_RATE} Hz, which all labels are made from, got one of "
                f"{config.sample_rate} Hz; pretrain it at {SAMPLE_RATE} Hz."
            )
        if max_chunk < frontend.window_samples:
            raise ValueError(f"max_chunk must be {frontend.window_samples} samples or more, got {max_chunk}.")
        self.name, self.dim = f"layer {layer}", config.embed_dim
        self.key = f"layer {layer} of {_digest(encoder)}, {max_chunk} samples at once"
        self.rate = config.sample_rate / frontend.stride_samples
        self._encoder, self._layer = encoder, layer
        frames = 1 + (max_chunk - frontend.window_samples) // frontend.stride_samples
        self._hop = frames * frontend.stride_samples
        self._piece = self._hop - frontend.stride_samples + frontend.window_samples  # has as many frames, and no more

    def num_frames(self, num_samples: int) -> int:
        """As the front-end counts; pieces change nothing."""
        return int(self._encoder.frontend.num_frames(torch.tensor(num_samples)))

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        """[num_samples] -> [frames, C]."""
        like = next(self._encoder.parameters())
        if self._encoder.config.normalize_waveform and len(samples):
            samples = F.layer_norm(torch.from_numpy(samples), samples.shape).numpy()
        pieces = [np.zeros((0, self.dim), dtype=np.float32)]
        for begin in range(0, self.num_frames(len(samples)) * self._stride, self._hop):
            piece = torch.from_numpy(samples[begin : begin + self._piece])[None].to(like)
            with torch.no_grad():
                pieces.append(self._encoder(piece).hidden_states[self._layer][0].float().cpu().numpy())
        return np.concatenate(pieces)

    @property
    def _stride(self) -> int:
        return self._encoder.frontend.stride_samples


def _digest(encoder: SpeechEncoder) -> str:
    """Tells an encoder from others: by its weights, and by its configuration, which runs them under some reach."""
    found = hashlib.sha256(json.dumps(encoder.config.to_dict(), sort_keys=True).encode())
    for name, tensor in encoder.state_dict().items():
        found.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()[:16]

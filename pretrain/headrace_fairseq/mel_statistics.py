# SPDX-License-Identifier: Apache-2.0
"""Mean and standard deviation of each log-mel band over a corpus, measured once, before update 0.

Of an hour of speech at most, drawn by the run's seed. They are buffers of the front-end and so part of every
checkpoint: whoever goes on from one, or exports it, has them.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch.nn import functional as F

from headrace import SpeechEncoder
from headrace.log_mel import LogMel, LogMelFrontend
from headrace_labels.audio import read_audio
from headrace_labels.shards import Manifest, read_manifest

logger = logging.getLogger(__name__)

MEASURED_SECONDS = 3600.0
PIECE = 6000  # log-mels at once: a minute
LEAST_STD = 0.1  # of a band in which the corpus says nothing: what little is there must not be blown up
TOLD_EVERY_SECONDS = 10.0


def measure_for(trainer: Any) -> None:
    """Measure for the encoder of fairseq's ``trainer``, the same in every process: the first one does.

    Raises:
        ValueError: see ``measure``.
    """
    encoder = getattr(trainer.get_model(), "speech_encoder", None)
    if not isinstance(encoder, SpeechEncoder) or not isinstance(encoder.frontend, LogMelFrontend):
        return
    cfg, log_mel = trainer.cfg, encoder.frontend.log_mel
    is_alone = not dist.is_initialized() or dist.get_world_size() == 1
    if is_alone or dist.get_rank() == 0:
        measure(encoder, Path(cfg.task.data), cfg.dataset.train_subset, cfg.common.seed)
    if not is_alone:
        for statistic in (log_mel.mean, log_mel.std):
            dist.broadcast(statistic, 0)


def measure(encoder: SpeechEncoder, data: Path, split: str, seed: int) -> None:
    """Give an encoder's log-mel front-end the statistics of a split; any other front-end has none.

    Args:
        data: the folder of manifests.
        seed: draws the utterances.

    Raises:
        ValueError: there is no such manifest, or nothing in it could be read.
    """
    if not isinstance(encoder.frontend, LogMelFrontend):
        return
    log_mel, config = encoder.frontend.log_mel, encoder.config
    manifest, sums, started = read_manifest(data, split), Sums(), time.monotonic()
    chosen = drawn(manifest, config.sample_rate * MEASURED_SECONDS, seed)
    told = started
    for number, index in enumerate(chosen):
        if number and time.monotonic() > told + TOLD_EVERY_SECONDS:
            told = time.monotonic()
            left = (told - started) / number * (len(chosen) - number)
            logger.info(f"log-mel statistics: {number} of {len(chosen)} utterances, {left:.0f} s left")
        try:
            samples = torch.from_numpy(
                read_audio(manifest.audio(index), manifest.num_samples[index], config.sample_rate)
            )
        except ValueError as error:
            logger.warning(f"left out of the log-mel statistics: {error}")
            continue
        if config.normalize_waveform and len(samples):
            samples = F.layer_norm(samples, samples.shape)
        for piece in log_mels_of(log_mel, samples):
            sums.add(piece)
    if sums.count < 2:
        raise ValueError(
            f"{manifest.path}: log-mel statistics need at least 2 windows of {log_mel.window_samples} samples, got "
            f"{sums.count} in {len(chosen)} of {len(manifest)} utterances; make the manifest again with "
            "python manifests/wav2vec_manifest.py (audio inside archives is not read)."
        )
    log_mel.mean.copy_(sums.mean)
    log_mel.std.copy_(sums.std.clamp(min=LEAST_STD))
    logger.info(
        f"log-mel statistics of {len(chosen)} of {len(manifest)} utterances of {split}, "
        f"{sums.count * log_mel.hop_samples / config.sample_rate / 60:.1f} min, drawn by seed {seed}: mean "
        f"{float(log_mel.mean.mean()):.3f}, std {float(log_mel.std.mean()):.3f} ({time.monotonic() - started:.1f} s)"
    )


class Sums:
    """Of log-mels, in fp64."""

    def __init__(self) -> None:
        self.count = 0
        self._first: torch.Tensor | None = None
        self._sum = self._squares = torch.zeros(())

    def add(self, log_mels: torch.Tensor) -> None:
        """log_mels: [m, bands]."""
        x = log_mels.double().cpu()
        if self._first is None:
            self._first = x[0]  # sums of differences from it lose no digits
        x = x - self._first
        self.count += len(x)
        self._sum, self._squares = self._sum + x.sum(0), self._squares + x.square().sum(0)

    @property
    def mean(self) -> torch.Tensor:
        """[bands]."""
        assert self._first is not None
        return self._first + self._sum / self.count

    @property
    def std(self) -> torch.Tensor:
        """[bands]."""
        return (self._squares / self.count - (self._sum / self.count).square()).clamp(min=0).sqrt()


def drawn(manifest: Manifest, most_samples: float, seed: int) -> list[int]:
    """Utterances in an order drawn by ``seed``, as many as hold at least ``most_samples`` samples, or all."""
    order = np.random.default_rng(seed).permutation(len(manifest)).tolist()
    before = itertools.accumulate((manifest.num_samples[index] for index in order), initial=0)
    return [index for index, samples in zip(order, before, strict=False) if samples < most_samples]


@torch.no_grad()
def log_mels_of(log_mel: LogMel, samples: torch.Tensor) -> Iterator[torch.Tensor]:
    """The log-mels [m, bands] of an utterance [samples], not normalised: of every window that ends in it."""
    hop, window = log_mel.hop_samples, log_mel.window_samples
    padded, count = F.pad(samples.to(log_mel.mean.device), (window - hop, 0)), len(samples) // hop
    for first in range(0, count, PIECE):
        last = min(first + PIECE, count) - 1
        yield log_mel.raw(padded[None, first * hop : last * hop + window])[0]

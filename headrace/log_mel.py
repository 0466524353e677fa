# SPDX-License-Identifier: Apache-2.0
"""Waveform -> log-mel -> frames of 40 ms by two strided convolutions (arXiv 2601.19960, 2409.07165), chunk-exact.

The papers' code pads both ends of the utterance, so that a frame at the end of a chunk sees samples of the next one.
Here every window ends with the last sample of its hop, and all padding stands before the utterance: frame t sees
samples up to (t + 1) * stride_samples - 1, and a chunk of frames is known with its own last sample.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.nn import functional as F

from headrace.frontend import Frontend
from headrace.streaming import Entries, Entry, Live

HOP_MS, WINDOW_MS = 10, 32
LEAST_POWER = 1e-10  # of a band, below the rounding of 16-bit samples: digital silence has a logarithm too
BLOCK_FRAMES = 512  # of a long utterance that are in memory at once


class LogMel(nn.Module):
    """Natural logarithm of the power in mel bands, normalised by the statistics of a corpus.

    Computed in fp32 or better whatever the module is cast to: in bf16, neighbouring bands' powers drown each other.

    Args:
        num_mels: bands.
        sample_rate: in Hz; windows of 32 ms every 10 ms, the FFT the next power of two.
    """

    mean: torch.Tensor
    std: torch.Tensor
    window: torch.Tensor
    filters: torch.Tensor

    def __init__(self, num_mels: int, sample_rate: int) -> None:
        super().__init__()
        self.hop_samples, self.window_samples = sample_rate * HOP_MS // 1000, round(sample_rate * WINDOW_MS / 1000)
        self.fft_samples = fft_samples(sample_rate)
        self.register_buffer("mean", torch.zeros(num_mels))  # of each band; 0 and 1 until they are measured
        self.register_buffer("std", torch.ones(num_mels))
        # Hamming, as in the papers' code: a Hann window ends with 0, and the newest sample would not count
        self.register_buffer("window", torch.hamming_window(self.window_samples), persistent=False)
        self.register_buffer("filters", mel_filters(num_mels, sample_rate), persistent=False)

    def forward(self, samples: torch.Tensor) -> torch.Tensor:
        """[N, samples] -> [N, m, num_mels], normalised, fp32 or fp64: of the windows that ``raw`` says."""
        return (self.raw(samples) - self.mean) / self.std

    def raw(self, samples: torch.Tensor) -> torch.Tensor:
        """[N, window_samples + (m - 1) * hop_samples] -> [N, m, num_mels] of every window that fits; not normalised."""
        with torch.autocast(samples.device.type, enabled=False):
            windows = samples.to(self.mean.dtype).unfold(1, self.window_samples, self.hop_samples) * self.window
            power = torch.view_as_real(torch.fft.rfft(windows, self.fft_samples)).square().sum(-1)
            return (power @ self.filters).clamp(min=LEAST_POWER).log()

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> LogMel:
        """How torch moves and casts a module: casts to fewer bits than fp32 are left out."""

        def at_least_fp32(x: torch.Tensor) -> torch.Tensor:
            y = fn(x)
            return x.to(y.device) if y.is_floating_point() and y.element_size() < 4 else y

        return super()._apply(at_least_fp32, recurse)


class MelConvolution(nn.Module):
    """3 x 3 convolution of stride 2 in time and frequency, LayerNorm of each frame, GELU.

    Time is not padded; frequency is, by a band of zeros at either end.
    """

    def __init__(self, inputs: int, outputs: int, bands: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, stride=2, padding=(0, 1))
        nn.init.kaiming_normal_(self.conv.weight)
        self.norm = nn.LayerNorm([outputs, halved(bands)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, inputs, 2 * T + 1, bands] -> [N, outputs, T, ceil(bands / 2)]."""
        y = self.norm(self.conv(x).transpose(1, 2))
        return F.gelu(y).transpose(1, 2)


class LogMelFrontend(Frontend):
    """Waveform [N, samples] -> log-mel -> features [N, T, channels * bands]; floor(samples / stride_samples) frames.

    Frame t ends with sample (t + 1) * stride_samples - 1 and sees ``past_samples`` before its own stride; what lies
    before the utterance is silence.

    Args:
        num_mels: bands.
        mel_channels: of each convolution; each of them halves the rate of 100 frames a second, and the bands.
        sample_rate: in Hz.
    """

    def __init__(self, num_mels: int, mel_channels: Sequence[int], sample_rate: int) -> None:
        super().__init__()
        self.log_mel = LogMel(num_mels, sample_rate)
        self.conv_layers = nn.ModuleList()
        inputs, bands, step = 1, num_mels, 1
        for outputs in mel_channels:
            self.conv_layers.append(MelConvolution(inputs, outputs, bands))
            inputs, bands, step = outputs, halved(bands), 2 * step
        hop, window = self.log_mel.hop_samples, self.log_mel.window_samples
        self.stride_samples = self.window_samples = step * hop
        self.past_samples = (step - 2) * hop + window  # kernels of 3 reach 2 * step - 1 log-mels
        self.num_channels = inputs * bands

    def forward(self, waveforms: torch.Tensor, num_samples: torch.Tensor | None = None) -> torch.Tensor:
        """See ``Frontend``; long ones a block of frames at a time."""
        stride, num_frames = self.stride_samples, waveforms.shape[1] // self.stride_samples
        if waveforms.shape[0] == 0 or num_frames == 0:
            return self._features_like(waveforms.new_zeros(waveforms.shape[0], num_frames, self.num_channels))
        padded = F.pad(waveforms, (self.past_samples, 0))
        blocks = [
            self._encode(padded[:, first * stride : self.past_samples + min(first + BLOCK_FRAMES, num_frames) * stride])
            for first in range(0, num_frames, BLOCK_FRAMES)
        ]
        return torch.cat(blocks, 1)

    def entries(self) -> Entries:
        """Live: the samples before the next frame that it sees."""
        return {"samples": Entry((self.past_samples,))}

    def tick(self, samples: torch.Tensor, live: Live) -> torch.Tensor:
        """See ``Frontend``."""
        return self._encode(live.shift("samples", samples, 1))

    def _encode(self, samples: torch.Tensor) -> torch.Tensor:
        """[N, past_samples + T * stride_samples] -> [N, T, C]."""
        x = self._features_like(self.log_mel(samples))[:, None]
        for layer in self.conv_layers:
            x = layer(x)
        return x.transpose(1, 2).flatten(2)

    def _features_like(self, x: torch.Tensor) -> torch.Tensor:
        """In the dtype of the weights."""
        return x.to(next(self.conv_layers.parameters()).dtype)


def halved(bands: int) -> int:
    """Bands behind a convolution."""
    return (bands + 1) // 2


def fft_samples(sample_rate: int) -> int:
    """The next power of two behind a window."""
    return 1 << (round(sample_rate * WINDOW_MS / 1000) - 1).bit_length()


def mel_filters(num_mels: int, sample_rate: int) -> torch.Tensor:
    """Triangles of height 1, evenly spaced from 0 Hz to half the sample rate on HTK's mel scale: [bins, num_mels].

    2595 * log10(1 + Hz / 700), as in the papers' code (SpeechBrain's), and torchaudio's ``melscale_fbanks`` with
    ``mel_scale="htk"`` and no norm.
    """
    top_mel = 2595 * torch.tensor(1 + sample_rate / 2 / 700, dtype=torch.float64).log10()
    corners = 700 * (10 ** (torch.linspace(0, 1, num_mels + 2, dtype=torch.float64) * top_mel / 2595) - 1)
    hertz = torch.linspace(0, sample_rate / 2, fft_samples(sample_rate) // 2 + 1, dtype=torch.float64)[:, None]
    low, peak, high = corners[:-2], corners[1:-1], corners[2:]
    rising, falling = (hertz - low) / (peak - low), (high - hertz) / (high - peak)
    return torch.minimum(rising, falling).clamp(min=0).to(torch.get_default_dtype())


def check_log_mel(num_mels: int, sample_rate: int) -> None:
    """Raise ValueError where no log-mel can be computed so: naming the argument, what came and what to do."""
    if sample_rate * HOP_MS % 1000:
        raise ValueError(
            f"sample_rate must be a multiple of {1000 // HOP_MS} Hz for frontend='log_mel', whose windows are "
            f"{HOP_MS} ms apart, got {sample_rate}; resample the corpus to 16000."
        )
    if empty := int((mel_filters(num_mels, sample_rate).amax(0) == 0).sum()):
        raise ValueError(
            f"num_mels={num_mels} is too many at {sample_rate} Hz: {empty} bands would lie between two neighbouring "
            f"frequencies of the FFT of {fft_samples(sample_rate)} and be empty; choose fewer (the papers have 80)."
        )

# SPDX-License-Identifier: Apache-2.0
"""Waveform -> frames by strided convolutions (wav2vec 2.0, section 2); samples <-> frames arithmetic lives here."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from headrace.linear import linear
from headrace.streaming import Entries, Entry, Live, within


class FrameLayerNorm(nn.LayerNorm):
    """LayerNorm over the channels of each frame; [N, C, T] in and out. Streams."""

    def forward(self, x: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor:
        """lengths are not needed: a frame is normalised by itself."""
        return super().forward(x.mT).mT


class UtteranceGroupNorm(nn.GroupNorm):
    """Each channel normalised over the time axis of its own utterance (fairseq's extractor_mode=default). Acausal."""

    def forward(self, x: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor:
        """x: [N, C, T]; statistics over the first lengths[n] frames only, so that padding changes nothing."""
        if lengths is None:
            return super().forward(x)
        valid = (torch.arange(x.shape[-1], device=x.device) < lengths[:, None])[:, None, :]  # [N, 1, T]
        count = lengths.clamp(min=1)[:, None, None]
        mean = x.masked_fill(~valid, 0).sum(-1, keepdim=True) / count
        variance = (x - mean).masked_fill(~valid, 0).square().sum(-1, keepdim=True) / count
        y = (x - mean) * (variance + self.eps).rsqrt()
        return y * self.weight[:, None] + self.bias[:, None]


NARROW = 32  # input channels
"""oneDNN's convolutions in 16 bits of 2 .. NARROW - 1 channels give noise on CPUs with AMX: where the kernel is a
multiple of 4 (torch 2.13; pytorch issue 169688)."""


class ConvolutionLayer(nn.Module):
    """Strided convolution without padding, optional norm, GELU. [N, C, T] in and out."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, bias: bool, norm: str | None) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride
        self.conv = nn.Conv1d(inputs, outputs, kernel, stride=stride, bias=bias)
        nn.init.kaiming_normal_(self.conv.weight)
        self.norm: FrameLayerNorm | UtteranceGroupNorm | None = None
        if norm == "layer_norm":
            self.norm = FrameLayerNorm(outputs)
        elif norm == "group_norm":
            self.norm = UtteranceGroupNorm(outputs, outputs)

    def forward(self, x: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor:
        """lengths: [N] frames of this layer's output that belong to each item."""
        is_narrow = 1 < self.conv.in_channels < NARROW and x.element_size() == 2 and x.device.type == "cpu"
        y = self._product(x).mT if is_narrow else self.conv(x)
        return F.gelu(y if self.norm is None else self.norm(y, lengths))

    def entries(self) -> Entries:
        """Live: the inputs that the next window shares with those before it."""
        return {"inputs": Entry((self.conv.in_channels, max(0, self.kernel - self.stride)))}

    def tick(self, x: torch.Tensor, live: Live) -> torch.Tensor:
        """Live: the next inputs [S, C, n * stride] -> n frames, the last of which ends with the last input.

        As a product of windows and weights: for so few frames a convolution would spend its time on arranging weights.
        """
        y = self._product(live.shift("inputs", x, -1)[..., max(0, self.stride - self.kernel) :])
        if self.norm is not None:
            assert isinstance(self.norm, FrameLayerNorm)  # the other one waits for the end of the utterance
            y = F.layer_norm(y, self.norm.normalized_shape, self.norm.weight, self.norm.bias, self.norm.eps)
        return F.gelu(y).mT

    def _product(self, x: torch.Tensor) -> torch.Tensor:
        """The convolution of [N, C, T] as a product of windows and weights: [N, frames, channels]."""
        windows = x.unfold(-1, self.kernel, self.stride).transpose(1, 2).flatten(2)  # [N, frames, C * kernel]
        return linear(windows, self.conv.weight.flatten(1), self.conv.bias)

    def num_frames(self, lengths: torch.Tensor) -> torch.Tensor:
        """Output frames for a number of input frames; too short an input has none."""
        return torch.div(lengths - self.kernel, self.stride, rounding_mode="floor").add(1).clamp(min=0)


class Frontend(nn.Module):
    """Waveform [N, samples] -> features [N, T, num_channels].

    Frame t is known with sample t * stride_samples + window_samples - 1, and not before.
    """

    stride_samples: int
    window_samples: int
    num_channels: int

    def forward(self, waveforms: torch.Tensor, num_samples: torch.Tensor | None = None) -> torch.Tensor:
        """waveforms: [N, samples] float at the encoder's sample rate; num_samples: [N] int64, samples of each item.

        Returns [N, T, C] with T = num_frames(samples); frames past ``num_frames(num_samples)`` mean nothing.
        """
        raise NotImplementedError

    def entries(self) -> Entries:
        """Live: what it keeps of a stream."""
        raise NotImplementedError

    def tick(self, samples: torch.Tensor, live: Live) -> torch.Tensor:
        """Live: the next samples [S, n * stride_samples] -> [S, n, C]; the last frame is known with the last sample."""
        raise NotImplementedError

    def num_frames(self, num_samples: torch.Tensor) -> torch.Tensor:
        """Frames of that many samples: floor((samples - window) / stride) + 1, never below 0."""
        return torch.div(num_samples - self.window_samples, self.stride_samples, rounding_mode="floor").add(1).clamp(0)

    def whole_samples(self, num_samples: int) -> int:
        """Samples that make ceil(num_samples / stride) frames whole, at least num_samples; s3prl counts frames so."""
        if num_samples == 0:
            return 0
        last = (num_samples - 1) // self.stride_samples * self.stride_samples  # where the last frame starts
        return max(num_samples, last + self.window_samples)


class WaveformFrontend(Frontend):
    """Waveform [N, samples] -> features [N, T, C].

    Frame t covers samples t * stride_samples .. t * stride_samples + window_samples - 1, and nothing else unless the
    norm is ``group_norm``.

    Args:
        conv_layers: (channels, kernel, stride) of each convolution.
        conv_norm: "layer_norm" after every convolution, or "group_norm" over time after the first only.
        conv_bias: whether the convolutions have a bias.
    """

    def __init__(self, conv_layers: Sequence[Sequence[int]], conv_norm: str, conv_bias: bool) -> None:
        super().__init__()
        self.conv_layers = nn.ModuleList()
        inputs, self.stride_samples, self.window_samples = 1, 1, 1
        for index, (outputs, kernel, stride) in enumerate(conv_layers):
            norm = conv_norm if conv_norm == "layer_norm" or index == 0 else None
            self.conv_layers.append(ConvolutionLayer(inputs, outputs, kernel, stride, conv_bias, norm))
            self.window_samples += (kernel - 1) * self.stride_samples
            self.stride_samples *= stride
            inputs = outputs
        self.num_channels = inputs

    def forward(self, waveforms: torch.Tensor, num_samples: torch.Tensor | None = None) -> torch.Tensor:
        """See ``Frontend``."""
        if waveforms.shape[1] < self.window_samples:
            return waveforms.new_zeros(waveforms.shape[0], 0, self.num_channels)
        x, lengths = waveforms[:, None, :], num_samples
        for layer in self.conv_layers:
            assert isinstance(layer, ConvolutionLayer)
            lengths = None if lengths is None else layer.num_frames(lengths)
            x = layer(x, lengths)
        return x.mT

    def entries(self) -> Entries:
        """Live: what its convolutions keep."""
        entries: Entries = {}
        for i, layer in enumerate(self.conv_layers):
            assert isinstance(layer, ConvolutionLayer)
            entries |= within(f"{i}", layer.entries())
        return entries

    def tick(self, samples: torch.Tensor, live: Live) -> torch.Tensor:
        """Live: the next samples [S, n * stride_samples] -> [S, n, C]; the last frame's window ends with the last."""
        x = samples[:, None, :]
        for i, layer in enumerate(self.conv_layers):
            assert isinstance(layer, ConvolutionLayer)
            x = layer.tick(x, live.within(f"{i}"))
        return x.mT

# SPDX-License-Identifier: Apache-2.0
"""SpeechEncoder: waveform -> frontend -> project -> context -> hidden states."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from headrace.blocks import BLOCKS, TransformerBlock
from headrace.config import EncoderConfig, warn_of_unseen
from headrace.conformer import ConformerBlock
from headrace.frontends import FRONTENDS
from headrace.linear import Linear
from headrace.live import LiveEncoder
from headrace.ops.layout import num_blocks, read_back, row_frames, whole_lengths
from headrace.positions import ConvolutionalPositions, Rotation, rotary
from headrace.reach import Band, Blocks, Reach, Stack
from headrace.streaming import Entries, Entry, Live, Span, within

INIT_STD = 0.02  # of the transformer's weights, as in BERT and wav2vec 2.0


@dataclass(frozen=True)
class EncoderOutput:
    """What an encoder returns; all frames past an item's length are zero.

    hidden_states: L+1 tensors [N, T, C], the input of layer 1 and then each layer's output.
    last_hidden_state: [N, T, C], the last of them, behind the final LayerNorm where the blocks are norm_first.
    lengths: [N] int64, frames of each item.
    """

    hidden_states: list[torch.Tensor]
    last_hidden_state: torch.Tensor
    lengths: torch.Tensor


class Projection(nn.Module):
    """LayerNorm of each feature frame, then a linear map to the encoder's width where the widths differ."""

    def __init__(self, num_channels: int, embed_dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(num_channels)
        self.linear = Linear(num_channels, embed_dim) if num_channels != embed_dim else None

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """[N, T, channels] -> [N, T, C]."""
        x = self.norm(features)
        return x if self.linear is None else self.linear(x)


class ContextEncoder(nn.Module):
    """Positions and a stack of blocks under a reach."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.positions: ConvolutionalPositions | None = None
        if config.positions in ("conv", "causal_conv"):
            self.positions = ConvolutionalPositions(
                config.embed_dim,
                config.position_kernel,
                config.position_groups,
                causal=config.positions == "causal_conv",
            )
        self.layers = nn.ModuleList(BLOCKS[config.block](config) for _ in range(config.num_layers))
        self.norm = nn.LayerNorm(config.embed_dim)
        self._has_warned = not all(config.is_trained(reach) for reach in config.reaches)  # at load
        self._initialise()

    def _initialise(self) -> None:
        for name, module in self.layers.named_modules():
            if isinstance(module, nn.Linear):
                # Queries and keys of unit variance: with INIT_STD the scores of a narrow encoder are all but equal, and
                # hundreds of updates pass before its attention prefers any frame.
                is_score = name.endswith(("q_proj", "k_proj"))
                nn.init.normal_(module.weight, std=self.config.embed_dim**-0.5 if is_score else INIT_STD)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(
        self,
        x: torch.Tensor,
        lengths: torch.Tensor | None = None,
        reach: Reach | Sequence[Reach] | None = None,
    ) -> list[torch.Tensor]:
        """Run the stack on projected frames.

        Args:
            x: [N, T, C], what ``SpeechEncoder.project`` returned, masked or not.
            lengths: [N] int64 frames of each item; None when all are T frames long.
            reach: who sees whom, one for all layers or one per layer; the configuration's when None.

        Returns:
            L+1 tensors [N, T, C]: the input of layer 1, then each layer's output (for Blocks the final rows), zero past
            the length. Training objectives and heads take ``output`` of them.

        Raises:
            ValueError: the reaches do not fit the layers or the mixer.
        """
        reaches = self.reaches_of(reach)
        past = _past(x, lengths)
        x = _blank(x, past)
        if self.positions is not None:
            x = self.positions(x)
        if not self.config.norm_first:
            x = self.norm(x)
        x = F.dropout(x, self.config.dropout, self.training)

        num_frames, blocks = x.shape[1], reaches[0] if isinstance(reaches[0], Blocks) else None
        if blocks is not None and lengths is None:  # the last block may hold frames that do not exist
            lengths = whole_lengths(x, num_frames)
        rotation = self._rotation(num_frames, blocks, x)
        hidden_states = [_blank(x, past)]
        rows = x  # of Blocks: without their axis until a layer has made them differ
        for layer, layer_reach in zip(self.layers, reaches, strict=True):
            if not self._skips_layer():
                rows = layer(rows, lengths, layer_reach, rotation, final_only=layer is self.layers[-1])
            frames = rows if blocks is None or rows.dim() == 3 else read_back(rows, blocks, num_frames)
            hidden_states.append(_blank(frames, past))
        return hidden_states

    def entries(self, reaches: Sequence[Reach], hop: int, first_frame: int, wants_all: bool) -> Entries:
        """Live: what positions and layers keep, and what waits for others.

        Args:
            reaches: of each layer.
            hop: frames of a tick.
            first_frame: the number of the first tick's first frame.
            wants_all: whether all hidden states are asked for, of the same frames.
        """
        width = self.config.embed_dim
        entries: Entries = {}
        if self.positions is not None:
            entries |= within("positions", self.positions.entries())
        if isinstance(reaches[0], Blocks):
            entries["rows"] = Entry((reaches[0].look_ahead, width))
            first_frame -= reaches[0].look_ahead
        elif self.config.positions == "rotary":
            entries["rotation"] = Entry((2, 1, sum(_waits(reaches)), width // self.config.num_heads // 2))
        for i, (layer, reach) in enumerate(zip(self.layers, reaches, strict=True)):
            assert isinstance(layer, TransformerBlock | ConformerBlock)
            entries |= within(f"layers.{i}", layer.entries(reach, hop, first_frame, is_first=i == 0))
            if wants_all and isinstance(reach, Band):
                entries[f"aligned.{i}"] = Entry((sum(_waits(reaches[i:])), width))
            first_frame -= _waits([reach])[0]
        return entries

    def tick(
        self, x: torch.Tensor, span: Span, reaches: Sequence[Reach], live: Live, wants_all: bool
    ) -> list[torch.Tensor]:
        """Live: the next projected frames of some streams -> the frames that lie the stack's look-ahead behind them.

        Args:
            x: [S, m, C].
            span: which frames these are.
            reaches: of each layer.

        Returns:
            L+1 tensors [S, m, C], all of the same frames, or the last layer's alone.
        """
        x = _blank(x, span.missing(x.shape[1]))
        if self.positions is not None:
            x = self.positions.tick(x, live.within("positions"))
        if not self.config.norm_first:
            x = self.norm(x)
        if isinstance(reaches[0], Blocks):
            return self._tick_blocks(x, span, reaches, live, wants_all)
        return self._tick_bands(x, span, reaches, live, wants_all)

    def _tick_blocks(
        self, x: torch.Tensor, span: Span, reaches: Sequence[Reach], live: Live, wants_all: bool
    ) -> list[torch.Tensor]:
        blocks = reaches[0]  # all have its hop and look-ahead
        assert isinstance(blocks, Blocks)
        rows = live.shift("rows", x, 1)
        span = Span(span.first - blocks.look_ahead, span.lengths)
        rotation = self._rotation_of(span.frames(blocks.rows), x)
        hidden_states = [rows[:, : blocks.hop]]
        for i, (layer, reach) in enumerate(zip(self.layers, reaches, strict=True)):
            is_first, final_only = i == 0, i == len(self.layers) - 1
            rotations = None
            if rotation is not None:
                new = rotation.rows(blocks.look_ahead, blocks.hop) if is_first else rotation
                rotations = new.first_rows(blocks.hop) if final_only and not is_first else new, new
            assert isinstance(layer, TransformerBlock | ConformerBlock)
            rows = layer.tick(
                rows, span, reach, rotations, live.within(f"layers.{i}"), is_first=is_first, final_only=final_only
            )
            hidden_states.append(rows[:, : blocks.hop])
        return hidden_states if wants_all else hidden_states[-1:]

    def _tick_bands(
        self, x: torch.Tensor, span: Span, reaches: Sequence[Reach], live: Live, wants_all: bool
    ) -> list[torch.Tensor]:
        m = x.shape[1]
        rotation = self._rotation_of(span.frames(m), x)
        if rotation is not None:  # of every frame that some layer still waits for
            rotation = Rotation(*live.shift("rotation", torch.stack(tuple(rotation), 1), 3).unbind(1))
        behind = sum(_waits(reaches))
        hidden_states = []
        for i, (layer, reach) in enumerate(zip(self.layers, reaches, strict=True)):
            assert isinstance(reach, Band) and isinstance(layer, TransformerBlock)
            if wants_all:
                hidden_states.append(live.shift(f"aligned.{i}", x, 1)[:, :m])
            rotations = None
            if rotation is not None:
                rotations = rotation.rows(behind - reach.look_ahead, m), rotation.rows(behind, m)
            x = layer.tick(x, span, reach, rotations, live.within(f"layers.{i}"))
            behind -= reach.look_ahead
        return [*hidden_states, x]

    def output(self, hidden_states: list[torch.Tensor], lengths: torch.Tensor | None = None) -> torch.Tensor:
        """The result of the stack, [N, T, C]: the last hidden state, normalised with norm_first (wav2vec 2.0 LARGE)."""
        if not self.config.norm_first:
            return hidden_states[-1]
        return _blank(self.norm(hidden_states[-1]), _past(hidden_states[-1], lengths))

    def reaches_of(self, reach: Reach | Sequence[Reach] | None) -> tuple[Reach, ...]:
        """The reach of each layer, of one for all, one per layer, or None for the configuration's.

        Raises:
            ValueError: another number than there are layers; blocks of different shapes.
        """
        if reach is None:
            return self.config.reaches
        reaches = tuple(reach) if isinstance(reach, Sequence) else (reach,) * len(self.layers)
        self._warn_of_unseen(reaches)
        if len(reaches) != len(self.layers):
            raise ValueError(f"reach must be one reach or one per layer ({len(self.layers)}), got {len(reaches)}.")
        Stack(reaches)
        return reaches

    def _warn_of_unseen(self, reaches: Sequence[Reach]) -> None:
        """Once: blocks or chunks of a size that training did not have. They work, how well nobody knows."""
        unseen = [reach for reach in reaches if not self.config.is_trained(reach)]
        if unseen and not self._has_warned:
            self._has_warned = True
            warn_of_unseen(self.config, unseen[0])

    def _rotation(self, num_frames: int, blocks: Blocks | None, x: torch.Tensor) -> Rotation | None:
        if self.config.positions != "rotary":
            return None
        frames = torch.arange(num_frames, device=x.device)
        if blocks is not None:
            frames = row_frames(blocks, num_blocks(num_frames, blocks), x.device)
        return rotary(frames, self.config.embed_dim // self.config.num_heads, x.dtype)

    def _rotation_of(self, frames: torch.Tensor, x: torch.Tensor) -> Rotation | None:
        """Live: of frames [S, m], for all heads."""
        if self.config.positions != "rotary":
            return None
        return Rotation(*(y[:, None] for y in rotary(frames, self.config.embed_dim // self.config.num_heads, x.dtype)))

    def _skips_layer(self) -> bool:
        return self.training and self.config.layerdrop > 0 and bool(torch.rand(()) < self.config.layerdrop)


def _waits(reaches: Sequence[Reach]) -> list[int]:
    """The frames that each layer waits for by itself: the look-ahead of bands, which adds up."""
    return [reach.look_ahead if isinstance(reach, Band) else 0 for reach in reaches]


def _past(x: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor | None:
    """[N, T] bool, whether a frame of x [N, T, C] lies behind its item's end; None where none does."""
    return None if lengths is None else torch.arange(x.shape[1], device=x.device) >= lengths[:, None]


def _blank(x: torch.Tensor, past: torch.Tensor | None) -> torch.Tensor:
    """Zeros where past [N, T] says that a frame lies behind its item's end."""
    return x if past is None else x.masked_fill(past[..., None], 0)


class SpeechEncoder(LiveEncoder):
    """Waveforms -> hidden states, in three named parts that training objectives can reach between.

    >>> conv_layers = [[32, 10, 5], [32, 8, 8]]
    >>> config = EncoderConfig(num_layers=2, embed_dim=32, ffn_dim=64, num_heads=2, conv_layers=conv_layers)
    >>> out = SpeechEncoder(config).eval()(torch.zeros(1, 1600))
    >>> len(out.hidden_states), tuple(out.hidden_states[-1].shape)
    (3, (1, 39, 32))
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.frontend = FRONTENDS[config.frontend](config)
        self.project = Projection(self.frontend.num_channels, config.embed_dim)
        self.context = ContextEncoder(config)

    def forward(
        self,
        waveforms: torch.Tensor,
        num_samples: torch.Tensor | None = None,
        reach: Reach | Sequence[Reach] | None = None,
    ) -> EncoderOutput:
        """Encode whole utterances. An item's frames never depend on its companions in the batch.

        Args:
            waveforms: [N, samples] float, at ``config.sample_rate``; normalised to zero mean and unit variance over the
                utterance where ``config.normalize_waveform`` says so.
            num_samples: [N] int64, samples of each item; None when all are as long as the tensor.
            reach: who sees whom; the configuration's when None.

        Raises:
            ValueError: naming the argument, what was expected and what came.
        """
        if waveforms.dim() != 2:
            raise ValueError(
                f"waveforms must be [N, samples], got shape {tuple(waveforms.shape)}; one item is waveform[None]."
            )
        if not waveforms.is_floating_point():
            raise ValueError(
                f"waveforms must be floating point in [-1, 1], got {waveforms.dtype}; divide 16-bit samples by 32768."
            )
        if num_samples is None:
            num_samples = torch.full(
                waveforms.shape[:1], waveforms.shape[1], dtype=torch.int64, device=waveforms.device
            )
        self._check_num_samples(waveforms, num_samples)
        features = self.frontend(waveforms, num_samples)
        lengths = self.frontend.num_frames(num_samples)
        hidden_states = self.context(self.project(features), lengths, reach)
        return EncoderOutput(hidden_states, self.context.output(hidden_states, lengths), lengths)

    @staticmethod
    def _check_num_samples(waveforms: torch.Tensor, num_samples: torch.Tensor) -> None:
        if num_samples.shape != waveforms.shape[:1] or num_samples.dtype != torch.int64:
            raise ValueError(
                f"num_samples must be [{waveforms.shape[0]}] int64, got {tuple(num_samples.shape)} {num_samples.dtype}."
            )
        # Read on the CPU only: on a GPU it would synchronise.
        outside = num_samples.device.type == "cpu" and bool(
            ((num_samples < 0) | (num_samples > waveforms.shape[1])).any()
        )
        if outside:
            raise ValueError(f"num_samples must lie in 0..{waveforms.shape[1]}, got {num_samples.tolist()}.")

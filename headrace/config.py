# SPDX-License-Identifier: Apache-2.0
"""EncoderConfig: the only configuration of the library."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from headrace.drawn import DrawnReach, frames_range
from headrace.frontends import FRONTENDS
from headrace.log_mel import check_log_mel
from headrace.mixers import MIXERS, SUMMARIES, Shape
from headrace.reach import Blocks, Neighbours, Reach, Stack, look_ahead

BLOCKS = ("transformer", "conformer")
POSITIONS = ("rotary", "causal_conv", "conv", "relative", "none")
CONV_NORMS = ("layer_norm", "group_norm")
WAV2VEC2_CONV_LAYERS = ((512, 10, 5), *[(512, 3, 2)] * 4, *[(512, 2, 2)] * 2)


@dataclass
class EncoderConfig:
    """Shape of a SpeechEncoder; the defaults are the streaming counterpart of wav2vec 2.0 BASE.

    Frames are those of the front-end: 20 ms with the default convolutions, 40 ms with those of log_mel. ``mixer`` is a
    row of ``mixers.MIXERS``; ``full`` does not read look_ahead, look_back and hop, ``masked`` and ``sa`` do not read
    hop; ``chunked``, ``deformable``, ``none`` and ``summary`` have chunks of hop frames and do not read look_ahead.
    ``positions`` "rotary" and "relative" are attention's. ``frontend`` is a row of ``frontends.FRONTENDS``: "waveform"
    reads conv_*, "log_mel" num_mels and mel_channels. "conv", ``conv_norm`` "group_norm" and ``normalize_waveform``
    look at the whole utterance: for ``full``, and for ``masked`` when an acausal model is masked afterwards.

    Raises:
        ValueError: naming the field, what was expected, what came and what to do.
    """

    mixer: str = "llsa"
    block: str = "transformer"
    look_ahead: int | list[int] = 8  # one number, or one per layer (masked, sa)
    look_back: int | None = 60
    hop: int | None = 1  # frames emitted together (llsa), or of a chunk; None: mixers in chunks see the whole utterance
    num_layers: int = 12
    embed_dim: int = 768
    ffn_dim: int = 3072
    num_heads: int = 12
    norm_first: bool = False  # LayerNorm before (True) or after (False) each residual branch
    positions: str = "rotary"
    position_kernel: int = 128  # frames; conv and causal_conv only
    position_groups: int = 16
    conv_kernel: int = 31  # frames; of a conformer's convolution
    summary: str = "fast"  # how the mixer ``summary`` makes its mean
    frontend: str = "waveform"
    conv_layers: list[list[int]] = field(default_factory=lambda: [list(layer) for layer in WAV2VEC2_CONV_LAYERS])
    conv_norm: str = "layer_norm"
    conv_bias: bool = False
    num_mels: int = 80
    mel_channels: list[int] = field(default_factory=lambda: [64, 32])  # of each convolution, which halves the rate
    dropout: float = 0.0
    activation_dropout: float = 0.0
    attention_dropout: float = 0.0
    layerdrop: float = 0.0
    normalize_waveform: bool = False  # the waveforms handed in have zero mean and unit variance over the utterance
    sample_rate: int = 16000
    trained_hops: list[int] | None = None  # lowest and highest of training, where ``hop`` was changed since
    drawn: dict[str, Any] | None = None  # fields of DrawnReach: reaches are drawn anew for each batch in training

    def __post_init__(self) -> None:
        self.conv_layers = [[int(number) for number in layer] for layer in self.conv_layers]
        if isinstance(self.look_ahead, Sequence):
            self.look_ahead = list(self.look_ahead)
        if isinstance(self.mel_channels, Sequence):
            self.mel_channels = list(self.mel_channels)
        _one_of("mixer", self.mixer, tuple(MIXERS))
        _one_of("positions", self.positions, POSITIONS)
        _one_of("conv_norm", self.conv_norm, CONV_NORMS)
        _one_of("block", self.block, BLOCKS)
        _one_of("summary", self.summary, SUMMARIES)
        _one_of("frontend", self.frontend, tuple(FRONTENDS))
        for name in (
            "num_layers",
            "embed_dim",
            "ffn_dim",
            "num_heads",
            "position_kernel",
            "position_groups",
            "conv_kernel",
            "num_mels",
            "sample_rate",
        ):
            _positive(name, getattr(self, name))
        for name in ("dropout", "activation_dropout", "attention_dropout", "layerdrop"):
            _probability(name, getattr(self, name))
        if self.drawn is not None:
            self.drawn = DrawnReach.from_dict(self.drawn).to_dict()
            self._check_drawn(DrawnReach.from_dict(self.drawn))
        if self.trained_hops is not None:
            self.trained_hops = list(frames_range("trained_hops", self.trained_hops, lowest=1))
        self._check_shapes()
        self._check_frontend()
        self._check_mixer()
        _ = self.reaches

    @property
    def reaches(self) -> tuple[Reach, ...]:
        """The reach of each layer, lowest first."""
        make = MIXERS[self.mixer].reach
        return tuple(make(ahead, self.look_back, self.hop) for ahead in self._look_ahead_per_layer())

    @property
    def stack(self) -> Stack:
        """The reach of the whole stack: what the encoder's last layer may depend on."""
        return self.stack_under(self.reaches)

    def stack_under(self, reaches: Sequence[Reach]) -> Stack:
        """What the last of so many layers may depend on, each called under a reach."""
        return Stack(tuple(part for reach in reaches for part in self._parts_of_layer(reach)))

    @property
    def drawn_reach(self) -> DrawnReach | None:
        """What the reaches of a training are drawn from; None where all batches have the configuration's."""
        return None if self.drawn is None else DrawnReach.from_dict(self.drawn)

    @property
    def hops_of_training(self) -> tuple[int, int] | None:
        """The smallest and the largest block or chunk that training had; None where it had none, or nobody knows."""
        if self.trained_hops is not None:
            return self.trained_hops[0], self.trained_hops[1]
        if (drawn := self.drawn_reach) is not None:
            return drawn.hop
        own = self.reaches[0]
        return (own.hop, own.hop) if isinstance(own, Blocks) else None

    def is_trained(self, reach: Reach) -> bool:
        """Whether training had blocks or chunks of this size, as far as the configuration tells."""
        hops = self.hops_of_training
        return hops is None or not isinstance(reach, Blocks) or hops[0] <= reach.hop <= hops[1]

    @property
    def mixer_shape(self) -> Shape:
        """What the mixers are built from."""
        return Shape(self.embed_dim, self.num_heads, self.attention_dropout, self.positions, self.summary)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> EncoderConfig:
        """Read what ``to_dict`` wrote.

        Raises:
            ValueError: an unknown field, or a value that a field does not take.
        """
        known = {f.name for f in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ValueError(f"EncoderConfig has no field {', '.join(unknown)}; it has {', '.join(sorted(known))}.")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, strings and lists, for JSON."""
        return asdict(self)

    def _parts_of_layer(self, reach: Reach) -> list[Reach | Neighbours]:
        """Whom a layer's parts see, in their order: its mixer, and a conformer's convolution."""
        parts: list[Reach | Neighbours] = [reach] if MIXERS[self.mixer].sees_others else []
        if self.block == "conformer":
            parts.append(Neighbours(self.conv_kernel // 2, reach.hop if isinstance(reach, Blocks) else None))
        return parts

    def _look_ahead_per_layer(self) -> list[int]:
        if not isinstance(self.look_ahead, list):
            return [self.look_ahead] * self.num_layers
        if self.mixer not in ("sa", "masked"):
            raise ValueError(
                f"look_ahead is one number for {self.mixer} (one per layer is for sa and masked, where it adds up), "
                f"got {self.look_ahead}."
            )
        if len(self.look_ahead) != self.num_layers:
            raise ValueError(
                f"look_ahead must be one number or one per layer ({self.num_layers}), got {len(self.look_ahead)}."
            )
        return self.look_ahead

    def _check_frontend(self) -> None:
        if not self.conv_layers or any(len(layer) != 3 or min(layer) < 1 for layer in self.conv_layers):
            raise ValueError(f"conv_layers must be a list of [channels, kernel, stride], got {self.conv_layers}.")
        if not isinstance(self.mel_channels, list) or not self.mel_channels:
            raise ValueError(
                f"mel_channels must be a list of the channels of each convolution such as [64, 32] (each halves the "
                f"rate of 100 frames a second), got {self.mel_channels!r}."
            )
        for index, channels in enumerate(self.mel_channels):
            _positive(f"mel_channels[{index}]", channels)
        if self.frontend == "log_mel":
            check_log_mel(self.num_mels, self.sample_rate)
            if self.conv_norm != "layer_norm":
                raise ValueError(
                    f"conv_norm={self.conv_norm!r} is for frontend='waveform', got frontend='log_mel', which "
                    "normalises each frame; choose conv_norm='layer_norm' (fairseq: extractor_mode=layer_norm)."
                )

    def _check_shapes(self) -> None:
        if self.embed_dim % self.num_heads:
            raise ValueError(f"embed_dim {self.embed_dim} must be a multiple of num_heads {self.num_heads}.")
        if self.positions == "rotary" and self.embed_dim // self.num_heads % 2:
            raise ValueError(
                f"positions='rotary' needs an even head dimension, got {self.embed_dim} / {self.num_heads}; "
                "change num_heads."
            )
        if self.positions in ("conv", "causal_conv") and self.embed_dim % self.position_groups:
            raise ValueError(
                f"embed_dim {self.embed_dim} must be a multiple of position_groups {self.position_groups}."
            )

    def _check_mixer(self) -> None:
        if self.attention_dropout and not MIXERS[self.mixer].supports_dropout:
            raise ValueError(
                f"attention_dropout must be 0 for {self.mixer} (all mixers train under the same regularisers), "
                f"got {self.attention_dropout}; set it to 0."
            )
        self._check_block()
        if self.positions == "relative" and self.mixer in ("full", "masked", "sa", "llsa"):
            raise ValueError(
                f"positions='relative' is for mixer='chunked', got {self.mixer}; choose positions='rotary'."
            )
        broken = acausal_parts(self)
        if broken and self.mixer not in ("full", "masked"):
            raise ValueError(
                f"{', '.join(broken)} sees the whole utterance, which breaks the latency of mixer={self.mixer!r}; "
                "choose positions='rotary' or 'causal_conv', conv_norm='layer_norm', normalize_waveform=False, "
                "or mixer='full'."
            )

    def _check_drawn(self, drawn: DrawnReach) -> None:
        if self.mixer == "full":
            raise ValueError("drawn is for mixers that can be restricted, and mixer='full' sees all; leave it out.")
        if drawn.look_ahead != (0, 0) and self.mixer not in ("masked", "sa", "llsa"):
            raise ValueError(
                f"drawn.look_ahead is for masked, sa and llsa, and chunks have none; got {list(drawn.look_ahead)} for "
                f"mixer={self.mixer!r}: leave it out."
            )

    def _check_block(self) -> None:
        if self.block == "conformer" and not MIXERS[self.mixer].in_conformer:
            able = ", ".join(name for name, mixer in MIXERS.items() if mixer.in_conformer)
            raise ValueError(
                f"mixer={self.mixer!r} cannot stand in block='conformer', whose convolution sees final frames of a "
                f"chunk and would add to {self.mixer}'s look-ahead in each layer; choose one of {able}, or "
                "block='transformer'."
            )
        if self.block == "transformer" and not MIXERS[self.mixer].sees_others:
            raise ValueError(
                f"mixer={self.mixer!r} in block='transformer' would mix no frames at all; choose block='conformer', "
                "whose convolution does."
            )
        if self.block == "conformer" and self.conv_kernel == 1 and not MIXERS[self.mixer].sees_others:
            raise ValueError(
                f"conv_kernel must be 3 or more for mixer={self.mixer!r}, whose convolution alone mixes frames; got 1."
            )
        if self.conv_kernel % 2 == 0:
            raise ValueError(f"conv_kernel must be odd, so that it has a centre, got {self.conv_kernel}.")


def warn_of_unseen(trained: EncoderConfig, reach: Reach) -> None:
    """Say that an encoder runs in blocks or chunks of a size that its training did not have."""
    lowest, highest = trained.hops_of_training or (0, 0)
    seen = str(lowest) if lowest == highest else f"{lowest} to {highest}"
    warnings.warn(
        f"this encoder was trained in chunks of {seen} frames and runs in other ones, {reach}: it works, but scores "
        "may be worse; train with model.drawn for a range of sizes.",
        stacklevel=3,
    )


def acausal_parts(config: EncoderConfig) -> list[str]:
    """What besides the mixer waits for the whole utterance, as settings."""
    chosen = {
        "positions='conv'": config.positions == "conv",
        "conv_norm='group_norm'": config.conv_norm == "group_norm",
        "normalize_waveform=True": config.normalize_waveform,
    }
    return [name for name, is_chosen in chosen.items() if is_chosen]


def is_acausal(config: EncoderConfig) -> bool:
    """Whether any part of the encoder waits for the whole utterance."""
    return bool(acausal_parts(config)) or look_ahead(config.stack) is None


def is_published(config: EncoderConfig) -> bool:
    """Whether it is wav2vec 2.0's own encoder, which fairseq and transformers build."""
    own = (config.mixer, config.positions, config.block, config.frontend)
    return own == ("full", "conv", "transformer", "waveform")


def _one_of(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}.")


def _positive(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be a whole number >= 1, got {value!r}.")


def _probability(name: str, value: float) -> None:
    if not 0 <= value < 1:
        raise ValueError(f"{name} must be a probability in [0, 1), got {value!r}.")

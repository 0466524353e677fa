# SPDX-License-Identifier: Apache-2.0
"""EncoderConfig: the only configuration of the library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from headrace.mixers import MIXERS
from headrace.reach import Everything, Reach, Stack

POSITIONS = ("rotary", "causal_conv", "conv")
CONV_NORMS = ("layer_norm", "group_norm")
WAV2VEC2_CONV_LAYERS = ((512, 10, 5), *[(512, 3, 2)] * 4, *[(512, 2, 2)] * 2)


@dataclass
class EncoderConfig:
    """Shape of a SpeechEncoder; the defaults are the streaming counterpart of wav2vec 2.0 BASE.

    Frames are those of the front-end (20 ms with the default convolutions). ``mixer`` is a row of ``mixers.MIXERS``;
    ``full`` does not read look_ahead, look_back and hop, ``masked`` and ``sa`` do not read hop. ``positions`` "conv",
    ``conv_norm`` "group_norm" and ``normalize_waveform`` look at the whole utterance: for ``full``, and for ``masked``
    when an acausal model is masked afterwards.

    Raises:
        ValueError: naming the field, what was expected, what came and what to do.
    """

    mixer: str = "llsa"
    look_ahead: int | list[int] = 8  # one number, or one per layer (masked, sa)
    look_back: int | None = 60
    hop: int = 1  # frames emitted together (llsa)
    num_layers: int = 12
    embed_dim: int = 768
    ffn_dim: int = 3072
    num_heads: int = 12
    norm_first: bool = False  # LayerNorm before (True) or after (False) each residual branch
    positions: str = "rotary"
    position_kernel: int = 128  # frames; conv and causal_conv only
    position_groups: int = 16
    conv_layers: list[list[int]] = field(default_factory=lambda: [list(layer) for layer in WAV2VEC2_CONV_LAYERS])
    conv_norm: str = "layer_norm"
    conv_bias: bool = False
    dropout: float = 0.0
    activation_dropout: float = 0.0
    attention_dropout: float = 0.0
    layerdrop: float = 0.0
    normalize_waveform: bool = False  # the waveforms handed in have zero mean and unit variance over the utterance
    sample_rate: int = 16000

    def __post_init__(self) -> None:
        self.conv_layers = [[int(number) for number in layer] for layer in self.conv_layers]
        if isinstance(self.look_ahead, Sequence):
            self.look_ahead = list(self.look_ahead)
        _one_of("mixer", self.mixer, tuple(MIXERS))
        _one_of("positions", self.positions, POSITIONS)
        _one_of("conv_norm", self.conv_norm, CONV_NORMS)
        for name in (
            "num_layers",
            "embed_dim",
            "ffn_dim",
            "num_heads",
            "position_kernel",
            "position_groups",
            "sample_rate",
        ):
            _positive(name, getattr(self, name))
        for name in ("dropout", "activation_dropout", "attention_dropout", "layerdrop"):
            _probability(name, getattr(self, name))
        self._check_shapes()
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
        return Stack(self.reaches)

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

    def _look_ahead_per_layer(self) -> list[int]:
        if not isinstance(self.look_ahead, list):
            return [self.look_ahead] * self.num_layers
        if self.mixer == "llsa":
            raise ValueError(
                f"look_ahead is one number for llsa (its channels run through all layers), got {self.look_ahead}."
            )
        if len(self.look_ahead) != self.num_layers:
            raise ValueError(
                f"look_ahead must be one number or one per layer ({self.num_layers}), got {len(self.look_ahead)}."
            )
        return self.look_ahead

    def _check_shapes(self) -> None:
        if not self.conv_layers or any(len(layer) != 3 or min(layer) < 1 for layer in self.conv_layers):
            raise ValueError(f"conv_layers must be a list of [channels, kernel, stride], got {self.conv_layers}.")
        if self.embed_dim % self.num_heads:
            raise ValueError(f"embed_dim {self.embed_dim} must be a multiple of num_heads {self.num_heads}.")
        if self.positions == "rotary" and self.embed_dim // self.num_heads % 2:
            raise ValueError(
                f"positions='rotary' needs an even head dimension, got {self.embed_dim} / {self.num_heads}; "
                "change num_heads."
            )
        if self.positions != "rotary" and self.embed_dim % self.position_groups:
            raise ValueError(
                f"embed_dim {self.embed_dim} must be a multiple of position_groups {self.position_groups}."
            )

    def _check_mixer(self) -> None:
        if self.attention_dropout and not MIXERS[self.mixer].supports_dropout:
            raise ValueError(
                f"attention_dropout must be 0 for {self.mixer} (all mixers train under the same regularisers), "
                f"got {self.attention_dropout}; set it to 0."
            )
        broken = acausal_parts(self)
        if broken and self.mixer not in ("full", "masked"):
            raise ValueError(
                f"{', '.join(broken)} sees the whole utterance, which breaks the latency of mixer={self.mixer!r}; "
                "choose positions='rotary' or 'causal_conv', conv_norm='layer_norm', normalize_waveform=False, "
                "or mixer='full'."
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
    return bool(acausal_parts(config)) or any(isinstance(reach, Everything) for reach in config.reaches)


def _one_of(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}.")


def _positive(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be a whole number >= 1, got {value!r}.")


def _probability(name: str, value: float) -> None:
    if not 0 <= value < 1:
        raise ValueError(f"{name} must be a probability in [0, 1), got {value!r}.")

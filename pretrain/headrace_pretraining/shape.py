# SPDX-License-Identifier: Apache-2.0
"""What the YAML files of a pretraining say of its model, before anything has run.

Hydra composes them when fairseq starts. To know three numbers of a model, this reads the same files in the order of
their `defaults` and lays the overrides on top; a test holds it against Hydra for every shipped experiment.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from headrace import EncoderConfig
from headrace.checkpoint.fairseq import FAIRSEQ_FIELDS, HEADRACE_FIELDS, parse_conv_layers
from headrace.frontends import FRONTENDS

CONFIGS = Path(__file__).resolve().parents[1] / "configs"


@dataclass(frozen=True)
class Shape:
    """Of a pretraining's model.

    Args:
        layers: of the context encoder; it has one more hidden state.
        width: features of each hidden state.
        candidates: among which a wav2vec 2.0 finds the masked frame's code: the true one and the negatives; else None.
    """

    layers: int
    width: int
    candidates: int | None

    @property
    def chance_bits(self) -> float | None:
        """Contrastive loss of uniform guessing."""
        return None if self.candidates is None else math.log2(self.candidates)


def encoder_of(config: str, overrides: Sequence[str], configs: Path) -> dict[str, Any]:
    """What a configuration says of the encoder itself: two that say the same have encoders of the same shape and reach.

    Raises:
        ValueError: there is no such configuration.
    """
    known = {*FAIRSEQ_FIELDS.values(), *HEADRACE_FIELDS}
    model = section_of(config, overrides, configs, "model")
    return {name: str(value) for name, value in model.items() if name in known}


def shape_of(config: str, overrides: Sequence[str], configs: Path) -> Shape:
    """The shape of the model of a configuration in the folder `configs`, with Hydra's overrides.

    Raises:
        ValueError: there is no such configuration, or it does not say.
    """
    model = section_of(config, overrides, configs, "model")
    try:
        candidates = None
        if "num_negatives" in model:
            candidates = 1 + int(model["num_negatives"]) + int(model.get("cross_sample_negatives", 0))
        return Shape(int(model["encoder_layers"]), int(model["encoder_embed_dim"]), candidates)
    except (KeyError, TypeError, ValueError) as why:
        raise ValueError(
            f"{config}: expected numbers as encoder_layers, encoder_embed_dim and num_negatives of model: {why}"
        ) from None


def frames_a_second(config: str, overrides: Sequence[str], configs: Path) -> float:
    """Of the encoder of a configuration: 50 with wav2vec 2.0's convolutions, 25 with log_mel's.

    Raises:
        ValueError: there is no such configuration, or a value that the encoder does not take.
    """
    model, task = (section_of(config, overrides, configs, section) for section in ("model", "task"))
    told = {name: model[name] for name in ("frontend", "num_mels", "mel_channels") if name in model}
    if "sample_rate" in task:
        told["sample_rate"] = task["sample_rate"]
    # an override is text, with quotes around what Hydra would read otherwise
    values = {name: yaml.safe_load(value) if isinstance(value, str) else value for name, value in told.items()}
    if "conv_feature_layers" in model:  # an expression, which YAML would take apart
        layers = model["conv_feature_layers"]
        values["conv_layers"] = parse_conv_layers(layers.strip("'\"") if isinstance(layers, str) else layers)
    encoder = EncoderConfig(**values)
    return encoder.sample_rate / FRONTENDS[encoder.frontend](encoder).stride_samples


def section_of(config: str, overrides: Sequence[str], configs: Path, section: str) -> dict[str, Any]:
    """A section of a configuration, with Hydra's overrides on top as they stand.

    Raises:
        ValueError: there is no such configuration.
    """
    prefix = f"{section}."
    found: dict[str, Any] = {}
    for _, content in _composed(configs, config, _choices(overrides)):
        found |= content.get(section) or {}
    return found | {key.removeprefix(prefix): v for key, v in _choices(overrides).items() if key.startswith(prefix)}


def files_of(config: str, overrides: Sequence[str], configs: Path) -> tuple[Path, ...]:
    """The files that a configuration is composed of, each once.

    Raises:
        ValueError: there is no such configuration.
    """
    return tuple(dict.fromkeys(path for path, _ in _composed(configs, config, _choices(overrides))))


def _choices(overrides: Sequence[str]) -> dict[str, str]:
    """Values by their keys; Hydra takes ++KEY=VALUE too."""
    return dict(override.lstrip("+").partition("=")[::2] for override in overrides)


def _composed(configs: Path, name: str, choices: dict[str, str]) -> list[tuple[Path, dict[str, Any]]]:
    """A file, those in its `defaults`, and their contents, in the order in which later ones win."""
    path = configs / f"{name}.yaml"
    if not path.is_file():
        raise ValueError(f"{path}: no such file; expected the configuration of a pretraining")
    content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    defaults = content.get("defaults") or []
    found: list[tuple[Path, dict[str, Any]]] = []
    for entry in defaults if "_self_" in defaults else [*defaults, "_self_"]:
        if entry == "_self_":
            found.append((path, content))
        elif isinstance(entry, str):  # beside the file that names it
            found += _composed(configs, str(Path(name).parent / entry), choices)
        else:
            for group, option in entry.items():
                found += _composed(configs, f"{group}/{choices.get(group, option)}", choices)
    return found

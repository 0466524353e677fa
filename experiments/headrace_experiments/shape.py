# SPDX-License-Identifier: Apache-2.0
"""What the YAML files of a pretraining say of its model, before anything has run.

Hydra composes them when fairseq starts. To know three numbers of a model, this reads the same files in the order of
their `defaults` and lays the overrides on top; a test holds it against Hydra for every shipped experiment.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from headrace_experiments.experiment import Pretraining


@dataclass(frozen=True)
class Shape:
    """Of a pretraining's model.

    Args:
        layers: of the context encoder; it has one more hidden state.
        width: features of each hidden state.
        candidates: among which the model finds the masked frame's code: the true one and the negatives.
    """

    layers: int
    width: int
    candidates: int

    @property
    def chance_bits(self) -> float:
        """Contrastive loss of uniform guessing."""
        return math.log2(self.candidates)


def shape_of(one: Pretraining, configs: Path) -> Shape:
    """The shape of a pretraining whose configuration lies in the folder `configs`.

    Raises:
        ValueError: there is no such configuration, or it does not say.
    """
    choices = dict(override.partition("=")[::2] for override in one.overrides)
    model = _model(configs, one.config, choices)
    model |= {key.removeprefix("model."): value for key, value in choices.items() if key.startswith("model.")}
    try:
        negatives = int(model["num_negatives"]) + int(model.get("cross_sample_negatives", 0))
        return Shape(int(model["encoder_layers"]), int(model["encoder_embed_dim"]), 1 + negatives)
    except (KeyError, TypeError, ValueError) as why:
        raise ValueError(
            f"{one.config}: expected numbers as encoder_layers, encoder_embed_dim and num_negatives of model: {why}"
        ) from None


def _model(configs: Path, name: str, choices: dict[str, str]) -> dict[str, Any]:
    """The section `model` of a file and of those in its `defaults`, where later ones win."""
    path = configs / f"{name}.yaml"
    if not path.is_file():
        raise ValueError(f"{path}: no such file; expected the configuration of a pretraining")
    content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    own = content.get("model") or {}
    found: dict[str, Any] = {}
    defaults = content.get("defaults") or []
    for entry in defaults if "_self_" in defaults else [*defaults, "_self_"]:
        if entry == "_self_":
            found |= own
        elif isinstance(entry, str):
            found |= _model(configs, entry, choices)
        else:
            for group, option in entry.items():
                found |= _model(configs, f"{group}/{choices.get(group, option)}", choices)
    return found

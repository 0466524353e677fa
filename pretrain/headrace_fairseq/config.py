# SPDX-License-Identifier: Apache-2.0
"""The models' configurations: fairseq's fields of wav2vec2 or hubert, and those of EncoderConfig that fairseq lacks."""

from __future__ import annotations

from dataclasses import MISSING, Field, field, fields, make_dataclass
from typing import Any, get_type_hints

from fairseq.models.hubert.hubert import HubertConfig
from fairseq.models.wav2vec.wav2vec2 import Wav2Vec2Config
from omegaconf import II, DictConfig, OmegaConf

from headrace import EncoderConfig
from headrace.checkpoint.fairseq import FAIRSEQ_FIELDS, TASK_FIELDS, encoder_config_from_fairseq

PLAIN_TYPES = (int, float, str, bool)

# What the plugin reads from other sections of the run's configuration.
RUN_FIELDS = {"seed": "common.seed", "max_update": "optimization.max_update", "log_interval": "common.log_interval"}

# fairseq's options of the training step that are taken in one value only, and why.
FIXED = {
    "checkpoint_activations": (False, "not built; lower dataset.max_tokens and raise optimization.update_freq"),
    "mask_channel_before": (False, "fairseq draws that mask from operating-system entropy"),
    "no_mask_overlap": (False, "fairseq's code for it does not run on numpy >= 1.24"),
    "no_mask_channel_overlap": (False, "fairseq's code for it does not run on numpy >= 1.24"),
}


def _own_fields() -> list[tuple[str, Any, Field[Any]]]:
    """EncoderConfig's fields that fairseq's model section does not have, for ``make_dataclass``."""
    hints = get_type_hints(EncoderConfig)
    own = []
    for f in fields(EncoderConfig):
        if f.name not in FAIRSEQ_FIELDS:
            default = II(f"task.{TASK_FIELDS[f.name]}") if f.name in TASK_FIELDS else _default(f)
            # fairseq's parsers know plain types only; EncoderConfig checks the value.
            own.append((f.name, hints[f.name] if hints[f.name] in PLAIN_TYPES else Any, field(default=default)))
    return own


def _default(f: Field[Any]) -> Any:
    """A list as a tuple, which a dataclass takes as a default."""
    return f.default if f.default_factory is MISSING else tuple(f.default_factory())


def _run_fields() -> list[tuple[str, Any, Field[Any]]]:
    return [(name, int, field(default=II(source))) for name, source in RUN_FIELDS.items()]


HeadraceWav2Vec2Config = make_dataclass(
    "HeadraceWav2Vec2Config",
    _own_fields() + _run_fields(),
    bases=(Wav2Vec2Config,),
    namespace={"__module__": __name__},
)

# Fields of masking that fairseq's wav2vec2 has and its hubert takes at these values. HuBERT's loss takes any number of
# masked frames, so that an utterance's mask need not be thinned to its companions'.
HUBERT_MASKS = {"require_same_masks": False, "mask_dropout": 0.0}

HeadraceHubertConfig = make_dataclass(
    "HeadraceHubertConfig",
    _own_fields() + _run_fields() + [(name, type(value), field(default=value)) for name, value in HUBERT_MASKS.items()],
    bases=(HubertConfig,),
    namespace={"__module__": __name__},
)


def encoder_config(cfg: DictConfig) -> EncoderConfig:
    """The encoder that a run's model section asks for.

    Raises:
        ValueError: naming the field, what was expected, what came and what to do.
    """
    for name, (only, reason) in FIXED.items():
        if name in cfg and cfg[name] != only:
            raise ValueError(f"model.{name} must be {only}, got {cfg[name]}: {reason}.")
    if cfg.mask_selection == "uniform" or cfg.mask_channel_selection == "uniform":
        raise ValueError("mask_selection must be static, normal or poisson: fairseq's code for uniform does not run.")
    model = OmegaConf.to_container(cfg, resolve=True, enum_to_str=True)
    return encoder_config_from_fairseq(model, {theirs: cfg[ours] for ours, theirs in TASK_FIELDS.items()})

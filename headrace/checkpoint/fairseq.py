# SPDX-License-Identifier: Apache-2.0
"""fairseq's checkpoint format, read and written without fairseq."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from headrace.checkpoint import unpickle
from headrace.checkpoint.files import written_whole
from headrace.checkpoint.names import FAIRSEQ, Names, State, check_state
from headrace.config import EncoderConfig, is_published
from headrace.encoder import SpeechEncoder

# EncoderConfig -> the name that fairseq's Wav2Vec2Config and HubertConfig give the same number.
FAIRSEQ_FIELDS = {
    "num_layers": "encoder_layers",
    "embed_dim": "encoder_embed_dim",
    "ffn_dim": "encoder_ffn_embed_dim",
    "num_heads": "encoder_attention_heads",
    "norm_first": "layer_norm_first",
    "position_kernel": "conv_pos",
    "position_groups": "conv_pos_groups",
    "conv_layers": "conv_feature_layers",
    "conv_norm": "extractor_mode",
    "conv_bias": "conv_bias",
    "dropout": "dropout",
    "activation_dropout": "activation_dropout",
    "attention_dropout": "attention_dropout",
    "layerdrop": "encoder_layerdrop",
}
# Fields that fairseq does not have, under headrace's names; stock checkpoints have these values.
HEADRACE_FIELDS = {
    "mixer": "full",
    "block": "transformer",
    "look_ahead": 0,
    "look_back": None,
    "hop": 1,
    "positions": "conv",
    "conv_kernel": 31,
    "summary": "fast",
    "frontend": "waveform",
    "trained_hops": None,
    "drawn": None,
    "num_mels": 80,
    "mel_channels": [64, 32],
}
# Fields of the task rather than of the model.
TASK_FIELDS = {"normalize_waveform": "normalize", "sample_rate": "sample_rate"}
# Sections of a run that fairseq's task and the plugin's model look into when they are built.
RUN = {"common": {"seed": 1, "tpu": False, "log_interval": 100}, "optimization": {"max_update": 0}}
CONV_NORMS = {"group_norm": "default", "layer_norm": "layer_norm"}
# Options of fairseq's encoder that exist in one value only here.
FIXED = {
    "layer_type": "transformer",
    "activation_fn": "gelu",
    "pos_conv_depth": 1,
    "conv_pos_batch_norm": False,
}


def encoder_config_from_fairseq(model: Mapping[str, Any], task: Mapping[str, Any] | None = None) -> EncoderConfig:
    """The EncoderConfig of a fairseq model configuration, stock wav2vec2 and hubert or headrace's own.

    Args:
        model: the ``model`` section (or the flat arguments of old checkpoints); absent fields keep fairseq's defaults.
        task: the ``task`` section.

    Raises:
        ValueError: the model uses an option that headrace's encoder does not have, or a value it does not take.
    """
    for name, only in FIXED.items():
        if model.get(name, only) != only:
            raise ValueError(f"{name}={model[name]!r} is not supported; headrace's encoder has {name}={only!r} only.")
    values = {ours: model.get(theirs, _FAIRSEQ_DEFAULTS[ours]) for ours, theirs in FAIRSEQ_FIELDS.items()}
    values |= {name: model.get(name, stock) for name, stock in HEADRACE_FIELDS.items()}
    values |= {ours: (task or {})[theirs] for ours, theirs in TASK_FIELDS.items() if theirs in (task or {})}
    values["conv_layers"] = parse_conv_layers(values["conv_layers"])
    inverse = {theirs: ours for ours, theirs in CONV_NORMS.items()}
    if values["conv_norm"] not in inverse:
        raise ValueError(f"extractor_mode must be one of {', '.join(inverse)}, got {values['conv_norm']!r}.")
    values["conv_norm"] = inverse[values["conv_norm"]]
    return EncoderConfig(**values)


_FAIRSEQ_DEFAULTS = {
    "num_layers": 12,
    "embed_dim": 768,
    "ffn_dim": 3072,
    "num_heads": 12,
    "norm_first": False,
    "position_kernel": 128,
    "position_groups": 16,
    "conv_layers": "[(512, 10, 5)] + [(512, 3, 2)] * 4 + [(512,2,2)] + [(512,2,2)]",
    "conv_norm": "default",
    "conv_bias": False,
    "dropout": 0.1,
    "activation_dropout": 0.0,
    "attention_dropout": 0.1,
    "layerdrop": 0.0,
}


def fairseq_config_from_encoder(config: EncoderConfig) -> tuple[dict[str, Any], dict[str, Any]]:
    """The ``model`` and ``task`` sections of an EncoderConfig; the inverse of ``encoder_config_from_fairseq``."""
    model = {theirs: getattr(config, ours) for ours, theirs in FAIRSEQ_FIELDS.items()}
    model["conv_feature_layers"] = str([tuple(layer) for layer in config.conv_layers])
    model["extractor_mode"] = CONV_NORMS[config.conv_norm]
    if is_published(config):
        model["_name"] = "wav2vec2"
    else:
        model |= {"_name": "headrace_wav2vec2", **{name: getattr(config, name) for name in HEADRACE_FIELDS}}
    task = {theirs: getattr(config, ours) for ours, theirs in TASK_FIELDS.items()}
    return model, {"_name": "audio_pretraining", **task}


def parse_conv_layers(text: str | list[Any]) -> list[list[int]]:
    """fairseq's ``conv_feature_layers``, an expression of lists, tuples, + and *, without ``eval``.

    >>> parse_conv_layers("[(512, 10, 5)] + [(512, 3, 2)] * 2")
    [[512, 10, 5], [512, 3, 2], [512, 3, 2]]

    Raises:
        ValueError: anything else stands in the expression.
    """
    if not isinstance(text, str):
        return [[int(number) for number in layer] for layer in text]
    try:
        layers = _literal(ast.parse(text, mode="eval").body)
        return [[int(number) for number in layer] for layer in layers]
    except (SyntaxError, TypeError, ValueError):
        raise ValueError(
            f"conv_feature_layers must read like '[(512, 10, 5)] + [(512, 3, 2)] * 4', got {text!r}."
        ) from None


def _literal(node: ast.AST) -> Any:
    if isinstance(node, ast.Constant) and isinstance(node.value, int):
        return node.value
    if isinstance(node, ast.List | ast.Tuple):
        return [_literal(element) for element in node.elts]
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _literal(node.left) + _literal(node.right)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        return _literal(node.left) * _literal(node.right)
    raise ValueError(node)


def fairseq_to_headrace(state: Mapping[str, torch.Tensor], conv_norm: str) -> State:
    """The encoder's tensors of a fairseq model's state dict, under headrace's names."""
    return Names(FAIRSEQ, conv_norm).import_state(state)


def headrace_to_fairseq(state: Mapping[str, torch.Tensor], conv_norm: str) -> State:
    """A SpeechEncoder's state dict under fairseq's names."""
    return Names(FAIRSEQ, conv_norm).export_state(state)


def sections(content: Mapping[str, Any], path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The ``model`` and ``task`` sections of a checkpoint; old ones have flat ``args`` for both.

    Raises:
        ValueError: the file is no pretraining checkpoint of fairseq.
    """
    if not isinstance(content.get("model"), dict):
        raise ValueError(f"{path} has no 'model': not a checkpoint of fairseq.")
    cfg, args = content.get("cfg"), content.get("args")
    if isinstance(cfg, dict) and isinstance(cfg.get("model"), dict):
        return cfg["model"], cfg.get("task") or {}
    if isinstance(args, dict):
        return args, args
    raise ValueError(f"{path} has neither 'cfg' nor 'args': its encoder cannot be built.")


def from_fairseq(path: str | Path) -> SpeechEncoder:
    """The encoder of a fairseq wav2vec2, hubert or headrace checkpoint, in eval mode. No fairseq, no pickles run.

    Raises:
        ValueError: what is refused, missing or unknown.
        FileNotFoundError: there is no such file.
    """
    path = Path(path)
    content = unpickle.read(path)
    config = encoder_config_from_fairseq(*sections(content, path))
    encoder = SpeechEncoder(config)
    state = fairseq_to_headrace(content["model"], config.conv_norm)
    check_state(state, encoder.state_dict(), str(path))
    encoder.load_state_dict(state)
    return encoder.eval()


def to_fairseq(encoder: SpeechEncoder, path: str | Path) -> None:
    """Write the encoder as a checkpoint that fairseq's own loader, trainer and fine-tuning take.

    ``fairseq.checkpoint_utils.load_model_ensemble_and_task([path], {"data": folder})`` gives a Wav2Vec2Model, or with
    ``headrace_fairseq`` imported a HeadraceWav2Vec2Model where mixer, positions or front-end are none of fairseq's. It
    has the encoder's hidden states, and is for features and fine-tuning: an encoder does not know the rest of a
    pretraining model, so there is no quantizer (``quantize_targets`` is false), no optimizer state and no history, and
    the three tensors that every such model has all the same (``mask_emb``, ``project_q``, ``final_proj``) are
    untrained: drawn from a fixed seed. To go on with a pretraining, start from the checkpoint that fairseq saved.

    Raises:
        OSError: the file could not be written whole; what stood there before stays.
    """
    model, task = fairseq_config_from_encoder(encoder.config)
    model |= {"quantize_targets": False, "final_dim": encoder.config.embed_dim}
    state = headrace_to_fairseq(encoder.state_dict(), encoder.config.conv_norm) | _untrained_objective(encoder)
    content = {
        "args": None,
        "cfg": {"model": model, "task": {"data": "", **task}, **RUN},
        "model": {name: tensor.cpu() for name, tensor in state.items()},
        # Without "num_updates": they are not known. fairseq counts from 0.
        "optimizer_history": [{"criterion_name": None, "optimizer_name": None, "lr_scheduler_state": {}}],
        "extra_state": {"train_iterator": {"epoch": 1}},
    }
    with written_whole(Path(path)) as partial, partial.open("wb") as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:  # how torch reports a failed write
            raise OSError(f"{path} could not be written: {str(error).splitlines()[0]}") from error


def _untrained_objective(encoder: SpeechEncoder) -> State:
    """What a Wav2Vec2Model without a quantizer has besides its encoder, drawn as fairseq draws it."""
    channels, width = encoder.frontend.num_channels, encoder.config.embed_dim
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = nn.ModuleDict({"project_q": nn.Linear(channels, width), "final_proj": nn.Linear(width, width)})
        return {"mask_emb": torch.rand(width), **layers.state_dict()}

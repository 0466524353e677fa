# SPDX-License-Identifier: Apache-2.0
"""transformers' folder format (config.json + model.safetensors), read and written without transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from headrace.checkpoint.files import check_replaceable, write_tensors, written_whole
from headrace.checkpoint.names import TRANSFORMERS, Names, State, check_state
from headrace.config import EncoderConfig, is_published
from headrace.encoder import SpeechEncoder

# EncoderConfig -> the name that transformers' Wav2Vec2Config and HubertConfig give the same number.
TRANSFORMERS_FIELDS = {
    "num_layers": "num_hidden_layers",
    "embed_dim": "hidden_size",
    "ffn_dim": "intermediate_size",
    "num_heads": "num_attention_heads",
    "norm_first": "do_stable_layer_norm",
    "position_kernel": "num_conv_pos_embeddings",
    "position_groups": "num_conv_pos_embedding_groups",
    "conv_bias": "conv_bias",
    "dropout": "hidden_dropout",
    "activation_dropout": "activation_dropout",
    "attention_dropout": "attention_dropout",
    "layerdrop": "layerdrop",
}
CONV_NORMS = {"group_norm": "group", "layer_norm": "layer"}
# Options of their encoder that exist in one value only here.
FIXED = {
    "hidden_act": "gelu",
    "feat_extract_activation": "gelu",
    "layer_norm_eps": 1e-5,
    "conv_pos_batch_norm": False,
    "add_adapter": False,
    "feat_proj_layer_norm": True,
}
MODEL_TYPES = ("wav2vec2", "hubert")
FILES = ("config.json", "preprocessor_config.json", "model.safetensors")
MARK = "written_by"  # key of config.json that tells our folder from a model that transformers saved
PREFIXES = ("wav2vec2.", "hubert.")  # of models with a head; the bare model has none


def from_transformers(folder: str | Path) -> SpeechEncoder:
    """The encoder of a saved Wav2Vec2 or Hubert model, in eval mode. Needs no transformers, runs no pickles.

    Raises:
        ValueError: what is refused, missing or unknown.
        FileNotFoundError: config.json or model.safetensors is not there.
    """
    folder = Path(folder)
    theirs = json.loads((folder / "config.json").read_text())
    encoder = SpeechEncoder(_encoder_config(theirs, folder))
    state = Names(TRANSFORMERS, encoder.config.conv_norm).import_state(_load_state(folder))
    if encoder.project.linear is None:
        _drop_identity(state)
    check_state(state, encoder.state_dict(), str(folder))
    encoder.load_state_dict(state)
    return encoder.eval()


def _encoder_config(theirs: dict[str, Any], folder: Path) -> EncoderConfig:
    if theirs.get("model_type") not in MODEL_TYPES:
        raise ValueError(
            f"{folder}: model_type must be one of {', '.join(MODEL_TYPES)}, got {theirs.get('model_type')!r}."
        )
    for name, only in FIXED.items():
        if theirs.get(name, only) != only:
            raise ValueError(
                f"{folder}: {name}={theirs[name]!r} is not supported; headrace's encoder has {only!r} only."
            )
    values = {ours: theirs[name] for ours, name in TRANSFORMERS_FIELDS.items() if name in theirs}
    inverse = {name: ours for ours, name in CONV_NORMS.items()}
    return EncoderConfig(
        mixer="full",
        positions="conv",
        conv_layers=[
            list(layer) for layer in zip(theirs["conv_dim"], theirs["conv_kernel"], theirs["conv_stride"], strict=True)
        ],
        conv_norm=inverse[theirs["feat_extract_norm"]],
        normalize_waveform=_normalizes(folder),
        **values,
    )


def _normalizes(folder: Path) -> bool:
    preprocessor = folder / "preprocessor_config.json"
    return preprocessor.exists() and bool(json.loads(preprocessor.read_text()).get("do_normalize", False))


def _load_state(folder: Path) -> State:
    if not (folder / "model.safetensors").exists():
        raise FileNotFoundError(
            f"{folder} has no model.safetensors; write it with transformers' save_pretrained (pickles are not read)."
        )
    state = load_file(folder / "model.safetensors")
    for prefix in PREFIXES:
        state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    # Before torch 2.1 the weight norm of the positional convolution had these names.
    old = {"weight_g": "parametrizations.weight.original0", "weight_v": "parametrizations.weight.original1"}
    return {_replace_suffix(name, old): tensor for name, tensor in state.items()}


def _drop_identity(state: State) -> None:
    """Theirs always has a projection; ``to_transformers`` writes one that changes nothing where we have none."""
    weight, bias = (state.get(f"project.linear.{name}") for name in ("weight", "bias"))
    if weight is not None and bias is not None and not bias.any() and torch.equal(weight, torch.eye(*weight.shape)):
        del state["project.linear.weight"], state["project.linear.bias"]


def _replace_suffix(name: str, suffixes: dict[str, str]) -> str:
    stem, _, last = name.rpartition(".")
    return f"{stem}.{suffixes[last]}" if last in suffixes else name


def to_transformers(encoder: SpeechEncoder, folder: str | Path) -> None:
    """Write the encoder as a folder that ``transformers.Wav2Vec2Model.from_pretrained`` reads.

    Raises:
        ValueError: transformers has no such encoder (a streaming mixer, or positions other than "conv"); ``folder`` is
            there, is not empty and was not written by this function (a model that transformers saved, say).
        OSError: the folder could not be written whole; what stood there before stays.
    """
    folder, config = Path(folder), encoder.config
    if not is_published(config):
        raise ValueError(
            "transformers' Wav2Vec2Model is mixer='full' with positions='conv' in transformer blocks on "
            f"frontend='waveform'; this encoder has mixer={config.mixer!r}, positions={config.positions!r}, "
            f"block={config.block!r}, frontend={config.frontend!r}. Share it as a portable folder instead "
            "(headrace.checkpoint.save)."
        )
    check_replaceable(folder, FILES, _is_ours)
    theirs: dict[str, Any] = {"model_type": "wav2vec2", "architectures": ["Wav2Vec2Model"], MARK: "headrace", **FIXED}
    theirs |= {name: getattr(config, ours) for ours, name in TRANSFORMERS_FIELDS.items()}
    theirs |= {
        "feat_extract_norm": CONV_NORMS[config.conv_norm],
        "num_feat_extract_layers": len(config.conv_layers),
    }
    for index, name in enumerate(("conv_dim", "conv_kernel", "conv_stride")):
        theirs[name] = [layer[index] for layer in config.conv_layers]
    state = Names(TRANSFORMERS, config.conv_norm).export_state(encoder.state_dict())
    state["masked_spec_embed"] = torch.zeros(config.embed_dim)
    if encoder.project.linear is None:  # theirs always has one
        state["feature_projection.projection.weight"] = torch.eye(config.embed_dim)
        state["feature_projection.projection.bias"] = torch.zeros(config.embed_dim)
    preprocessor = {
        "feature_extractor_type": "Wav2Vec2FeatureExtractor",
        "sampling_rate": config.sample_rate,
        "do_normalize": config.normalize_waveform,
    }
    with written_whole(folder) as partial:
        partial.mkdir()
        (partial / "config.json").write_text(json.dumps(theirs, indent=2) + "\n")
        (partial / "preprocessor_config.json").write_text(json.dumps(preprocessor, indent=2) + "\n")
        write_tensors(state, partial / "model.safetensors")


def _is_ours(config: dict[str, Any]) -> bool:
    """Whether we wrote this configuration; when transformers saves it again it keeps our mark and adds its version."""
    return MARK in config and "transformers_version" not in config

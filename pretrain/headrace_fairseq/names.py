# SPDX-License-Identifier: Apache-2.0
"""The model's state dict under fairseq's names on disk, under ours in memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from headrace.checkpoint import fairseq_to_headrace, headrace_to_fairseq

ENCODER = "speech_encoder."  # where the model keeps its SpeechEncoder


def to_fairseq_names(model: nn.Module, state: dict[str, torch.Tensor], prefix: str, metadata: Any) -> None:
    """A ``state_dict`` post-hook."""
    ours = _take(state, prefix + ENCODER)
    renamed = headrace_to_fairseq(ours, model.speech_encoder.config.conv_norm)
    state.update({prefix + name: tensor for name, tensor in renamed.items()})


def from_fairseq_names(model: nn.Module, state: dict[str, torch.Tensor], prefix: str, *_: Any) -> None:
    """A ``load_state_dict`` pre-hook; what is not the encoder's (quantizer, projections) keeps its name."""
    names = {name: name.removeprefix(prefix) for name in list(state) if name.startswith(prefix)}
    for name, inner in names.items():
        found = fairseq_to_headrace({inner: state[name]}, model.speech_encoder.config.conv_norm)
        if found:
            del state[name]
            state.update({prefix + ENCODER + ours: tensor for ours, tensor in found.items()})


def why_not(found: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> str | None:
    """Why a checkpoint cannot be loaded, in one line; None when it can. Both under fairseq's names."""
    missing = sorted(expected.keys() - found.keys())
    unknown = sorted(found.keys() - expected.keys())
    other = [name for name in expected if name in found and found[name].shape != expected[name].shape]
    if not (missing or unknown or other):
        return None
    parts = [f"{kind} {_few(names)}" for kind, names in (("it lacks", missing), ("it also has", unknown)) if names]
    if other:
        name = other[0]
        parts.append(f"{name} is {list(found[name].shape)}, expected {list(expected[name].shape)} ({len(other)} such)")
    advice = "the model section must describe the same shape (encoder_*, conv_*, layer_norm_first, latent_*, final_dim"
    told = (("pos_conv", ", positions"), ("log_mel", ", frontend, num_mels, mel_channels"))
    more = "".join(fields for part, fields in told if any(part in name for name in missing + unknown + other))
    return f"the checkpoint is another model's: {'; '.join(parts)}; {advice}{more})."


def _take(state: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): state.pop(name) for name in list(state) if name.startswith(prefix)}


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")

# SPDX-License-Identifier: Apache-2.0
"""fairseq checkpoint -> portable folder, as it is, under another reach, or untrained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from headrace.checkpoint import encoder_config_from_fairseq, fairseq_to_headrace, save, unpickle
from headrace.checkpoint.fairseq import sections
from headrace.checkpoint.folder import changed
from headrace.checkpoint.names import check_state
from headrace.config import EncoderConfig
from headrace.encoder import SpeechEncoder
from headrace.mixers import MIXERS


@dataclass(frozen=True)
class Exported:
    """What was written.

    encoder: in eval mode.
    provenance: what the folder says of where the weights come from.
    left_out: what the checkpoint had and the mixer asked for has not, and what the folder says of it.
    """

    encoder: SpeechEncoder
    provenance: dict[str, Any]
    left_out: dict[str, str]


def export(
    checkpoint: str | Path,
    folder: str | Path,
    changes: dict[str, Any] | None = None,
    untrained_seed: int | None = None,
) -> Exported:
    """Write the encoder of a fairseq checkpoint as a portable folder. Needs no fairseq, runs no pickles.

    Args:
        changes: fields of EncoderConfig to set otherwise: the same weights under another mixer or reach. Where that
            mixer has no attention dropout, the checkpoint's is left out; it never acts in a frozen encoder.
        untrained_seed: leave the weights out and draw them anew from this seed: the untrained twin.

    Raises:
        ValueError: the checkpoint is refused, incomplete, or a change does not fit; the folder holds the checkpoint, or
            anything else but an earlier portable folder.
        OSError: the folder could not be written whole; what stood there before stays.
    """
    checkpoint, folder = Path(checkpoint), Path(folder)
    if folder.resolve() in checkpoint.resolve().parents:
        raise ValueError(f"{folder} holds the checkpoint {checkpoint} and would be replaced; choose another folder.")
    content = unpickle.read(checkpoint)
    trained = encoder_config_from_fairseq(*sections(content, checkpoint))
    changes = changes or {}
    left_out = _left_out(trained, changes)
    config = changed(trained, {**dict.fromkeys(left_out, 0.0), **changes})
    if untrained_seed is not None:
        encoder = untrained(config, untrained_seed)
        _keep_measured(encoder, fairseq_to_headrace(content["model"], config.conv_norm))
    else:
        encoder = SpeechEncoder(config).eval()
        state = fairseq_to_headrace(content["model"], config.conv_norm)
        check_state(state, encoder.state_dict(), str(checkpoint))
        encoder.load_state_dict(state)
    provenance = _provenance(content, checkpoint, changes, untrained_seed) | left_out
    save(encoder, folder, provenance)
    return Exported(encoder, provenance, left_out)


def untrained(config: EncoderConfig, seed: int) -> SpeechEncoder:
    """An encoder with random weights, in eval mode: the same for the same seed, whatever was drawn before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return SpeechEncoder(config).eval()


def _keep_measured(encoder: SpeechEncoder, state: Mapping[str, torch.Tensor]) -> None:
    """Give an untrained twin what was measured of the corpus (buffers) and not learned from it (parameters)."""
    for name, buffer in encoder.named_buffers():
        if name in state:
            buffer.copy_(state[name])


def provenance_of_untrained(seed: int) -> dict[str, Any]:
    """What a folder says of random weights."""
    return {"updates": 0, "untrained": f"random weights, seed {seed}"}


def _left_out(trained: EncoderConfig, changes: dict[str, Any]) -> dict[str, str]:
    """Regularisers of the checkpoint that the mixer asked for does not have, each with what is said of it."""
    mixer = changes.get("mixer", trained.mixer)
    if mixer not in MIXERS or MIXERS[mixer].supports_dropout or trained.attention_dropout == 0:
        return {}
    return {"attention_dropout": f"{trained.attention_dropout:g} in training, 0 here: {mixer} has none"}


def _provenance(
    content: dict[str, Any], checkpoint: Path, changes: dict[str, Any], untrained_seed: int | None
) -> dict[str, Any]:
    """What the checkpoint says of its own training, and what was changed since."""
    cfg = content.get("cfg") or {}
    history = content.get("optimizer_history") or [{}]
    objective = (cfg.get("criterion") or {}).get("_name")
    found = {
        "checkpoint": checkpoint.name,
        "objective": objective,
        "updates": history[-1].get("num_updates"),
        "corpus": Path(str((cfg.get("task") or {}).get("data") or "")).name,
        "seed": (cfg.get("common") or {}).get("seed") if objective else None,  # to_fairseq writes one that nobody used
        "headrace_version": cfg.get("headrace_version"),
    }
    if untrained_seed is not None:
        found |= {"objective": None, **provenance_of_untrained(untrained_seed)}
    if changes:
        found["changed after training"] = ", ".join(f"{name}={value}" for name, value in changes.items())
    return {name: value for name, value in found.items() if value not in (None, "")}

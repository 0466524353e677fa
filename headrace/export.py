# SPDX-License-Identifier: Apache-2.0
"""fairseq checkpoint -> portable folder, as it is, under another reach, or untrained."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from headrace.checkpoint import encoder_config_from_fairseq, fairseq_to_headrace, save, unpickle
from headrace.checkpoint.fairseq import sections
from headrace.checkpoint.names import check_state
from headrace.encoder import SpeechEncoder


def export(
    checkpoint: str | Path,
    folder: str | Path,
    changes: dict[str, Any] | None = None,
    untrained_seed: int | None = None,
) -> SpeechEncoder:
    """Write the encoder of a fairseq checkpoint as a portable folder. Needs no fairseq, runs no pickles.

    Args:
        changes: fields of EncoderConfig to set otherwise: the same weights under another mixer or reach.
        untrained_seed: leave the weights out and draw them anew from this seed: the untrained twin.

    Raises:
        ValueError: the checkpoint is refused, incomplete, or a change does not fit.
        OSError: the folder could not be written whole; what stood there before stays.
    """
    checkpoint = Path(checkpoint)
    content = unpickle.read(checkpoint)
    config = replace(encoder_config_from_fairseq(*sections(content, checkpoint)), **(changes or {}))
    if untrained_seed is not None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(untrained_seed)
            encoder = SpeechEncoder(config).eval()
    else:
        encoder = SpeechEncoder(config).eval()
        state = fairseq_to_headrace(content["model"], config.conv_norm)
        check_state(state, encoder.state_dict(), str(checkpoint))
        encoder.load_state_dict(state)
    save(encoder, folder, _provenance(content, checkpoint, changes, untrained_seed))
    return encoder


def _provenance(
    content: dict[str, Any], checkpoint: Path, changes: dict[str, Any] | None, untrained_seed: int | None
) -> dict[str, Any]:
    """What the checkpoint says of its own training."""
    cfg = content.get("cfg") or {}
    history = content.get("optimizer_history") or [{}]
    found = {
        "checkpoint": checkpoint.name,
        "objective": (cfg.get("criterion") or {}).get("_name"),
        "updates": history[-1].get("num_updates"),
        "corpus": Path(str((cfg.get("task") or {}).get("data") or "")).name,
        "seed": (cfg.get("common") or {}).get("seed"),
        "headrace_version": cfg.get("headrace_version"),
    }
    if untrained_seed is not None:
        found |= {"objective": None, "updates": 0, "untrained": f"random weights, seed {untrained_seed}"}
    if changes:
        found["changed after training"] = ", ".join(f"{name}={value}" for name, value in changes.items())
    return {name: value for name, value in found.items() if value not in (None, "")}

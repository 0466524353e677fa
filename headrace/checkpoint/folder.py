# SPDX-License-Identifier: Apache-2.0
"""The portable folder: one encoder as it is shared (DESIGN.md section 7)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
from safetensors.torch import load_file

from headrace.checkpoint import card
from headrace.checkpoint.files import check_replaceable, write_tensors, written_whole
from headrace.checkpoint.names import check_state
from headrace.config import EncoderConfig, warn_of_unseen
from headrace.encoder import SpeechEncoder
from headrace.int8 import to_int8

FORMAT_VERSION = 1
REQUIRED = ("config.json", "model.safetensors")
# the last ones are put there by others: a head, a certificate, attention maps; all go with the weights
MEASURED = ("latency.json", "latency.png", "attention.json", "attention.png")
FILES = (*REQUIRED, *card.FILES, "head.json", "head.safetensors", *MEASURED)


def save(encoder: SpeechEncoder, folder: str | Path, provenance: dict[str, Any] | None = None) -> None:
    """Write a portable folder: weights, configuration, model card, and the files that torch.hub and s3prl look for.

    An earlier portable folder is replaced whole (``files.written_whole`` says what a kill can leave).

    Args:
        provenance: where the weights come from (objective, updates, corpus, commit, ...); stored and put on the card.

    Raises:
        ValueError: ``folder`` is there and is not empty, and no portable folder, or somebody put files into it.
        OSError: the folder could not be written whole; what stood there before stays.
    """
    folder = Path(folder)
    check_replaceable(folder, FILES, lambda config: "format_version" in config)
    provenance = provenance or {}
    config = {"format_version": FORMAT_VERSION, **encoder.config.to_dict(), "provenance": provenance}
    state = {name: tensor.detach().cpu() for name, tensor in encoder.state_dict().items()}
    num_parameters = sum(parameter.numel() for parameter in encoder.parameters())
    files = card.files(encoder.config, provenance, num_parameters, encoder.frontend)
    with written_whole(folder) as partial:
        partial.mkdir()
        write_tensors(state, partial / "model.safetensors")
        (partial / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        for name, text in files.items():
            (partial / name).write_text(text)


def load(folder: str | Path, int8: bool = False, changes: Mapping[str, Any] | None = None) -> SpeechEncoder:
    """An encoder in eval mode, from a portable folder or from a model hub id such as "team/llsa-base".

    Args:
        int8: 8-bit weights in its linear maps, for live running on a CPU (``headrace.int8``).
        changes: fields of EncoderConfig to set otherwise, the same weights under another reach: ``{"hop": 16}``. Chunks
            of a size that training did not have are warned of.

    Raises:
        ValueError: no such folder, a file or tensor is missing, shapes differ, the format is of another version, a
            field that does not exist or a value that it does not take.
    """
    path = _resolve(folder)
    missing = [name for name in REQUIRED if not (path / name).is_file()]
    if missing:
        raise ValueError(
            f"{path} is not a portable folder: {' and '.join(missing)} missing; write one with `headrace export`."
        )
    config = changed(read_config(path), changes or {})
    encoder = SpeechEncoder(config)
    try:
        state = load_file(path / "model.safetensors")
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path / 'model.safetensors'} is damaged: {error}; copy the folder again.") from None
    check_state(state, encoder.state_dict(), str(path))
    encoder.load_state_dict(state)
    encoder.eval()
    if int8:
        to_int8(encoder)
    return encoder


def changed(config: EncoderConfig, changes: Mapping[str, Any]) -> EncoderConfig:
    """A configuration with other fields, with a warning of chunks of a size that its training did not have.

    Raises:
        ValueError: a field that does not exist, or a value that it does not take.
    """
    values = {**config.to_dict(), **changes}
    is_another = values["mixer"] != config.mixer
    if (is_another or values["hop"] != config.hop) and config.hops_of_training is not None:
        values["trained_hops"] = list(config.hops_of_training)
    if is_another and "drawn" not in changes:  # reaches were drawn for the mixer that was trained
        values["drawn"] = None
    new = EncoderConfig.from_dict(values)
    if unseen := [reach for reach in new.reaches if not config.is_trained(reach)]:
        warn_of_unseen(config, unseen[0])
    return new


def read_config(folder: Path) -> EncoderConfig:
    """The EncoderConfig of a portable folder.

    Raises:
        ValueError: config.json is not JSON, of another format version, or names unknown fields.
    """
    try:
        values = json.loads((folder / "config.json").read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{folder / 'config.json'} is not JSON: {error}.") from None
    version = values.pop("format_version", None)
    if version != FORMAT_VERSION:
        raise ValueError(
            f"{folder} has format version {version!r}; this headrace reads version {FORMAT_VERSION}. "
            "Load it with the headrace release that wrote it, or upgrade."
        )
    values.pop("provenance", None)
    return EncoderConfig.from_dict(values)


def _resolve(folder: str | Path) -> Path:
    path = Path(folder).expanduser()
    if path.is_dir():
        return path
    if path.exists() or not re.fullmatch(r"[\w.-]+/[\w.-]+", str(folder)):
        raise ValueError(f"{folder} is neither a portable folder nor a hub id like 'team/name'.")
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise ValueError(
            f"{folder} is no folder here; to read it from a model hub: pip install huggingface_hub."
        ) from None
    try:
        return Path(snapshot_download(str(folder)))
    except Exception as error:  # the hub client raises a dozen unrelated classes
        raise ValueError(f"{folder} is no folder here and could not be had from the model hub: {error}") from error

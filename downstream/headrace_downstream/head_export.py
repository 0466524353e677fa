# SPDX-License-Identifier: Apache-2.0
"""From s3prl's checkpoint of an ASR head to headrace's own (``headrace.head``)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from headrace.checkpoint.folder import read_config
from headrace.head import CtcHead, HeadConfig, save_head
from headrace_downstream import checkpoints, compat

SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]  # before the lines of a dictionary file; <s> is CTC's blank
CAUSAL = "train a head with -c downstream/asr/config_causal.yaml"


def export_head(expdir: Path, folder: Path) -> CtcHead:
    """Read the best checkpoint of an experiment and write head.json and head.safetensors into the encoder's folder.

    Raises:
        ValueError: no checkpoint, a head that cannot run live or was trained on another encoder's shape.
        OSError: the folder cannot be written.
    """
    compat.install()
    states = checkpoints.load(checkpoints.best(expdir))
    head = CtcHead(head_config(states))
    head.load_state_dict(head_state(states, head.config))
    encoder = read_config(folder)
    shape = (encoder.num_layers + 1, encoder.embed_dim)
    if (head.config.num_hidden_states, head.config.embed_dim) != shape:
        raise ValueError(
            f"{expdir}: its head heard {head.config.num_hidden_states} hidden states of {head.config.embed_dim}, and "
            f"{folder} has {shape[0]} of {shape[1]}; name the encoder that it was trained on."
        )
    save_head(head.eval(), folder)
    return head


def head_config(states: dict[str, Any]) -> HeadConfig:
    """The shape of a head that can run live.

    Raises:
        ValueError: what of it cannot, and what to do.
    """
    args, expert = states["Args"], states["Config"]["downstream_expert"]
    model = expert["modelrc"]
    rnns = model.get(model["select"], {})
    num_lstms = len(rnns.get("dim", []))  # other lists may be longer: s3prl reads as many of them as there are sizes
    refusals = {
        f"select {model['select']}": model["select"] != "RNNs",
        f"module {rnns.get('module')}": str(rnns.get("module")).upper() != "LSTM",
        "a bidirectional LSTM, which waits for the whole utterance": bool(rnns.get("bidirection")),
        f"sample_rate {rnns.get('sample_rate')}": any(rate != 1 for rate in rnns.get("sample_rate", [])[:num_lstms]),
        f"features {args.upstream_feature_selection!r}": args.upstream_feature_selection != "hidden_states",
        f"layer {args.upstream_layer_selection}": args.upstream_layer_selection is not None,
    }
    if refused := [name for name, is_so in refusals.items() if is_so]:
        raise ValueError(f"this head has {refused[0]} and cannot run live; {CAUSAL}.")
    dictionary, weights = Path(expert["datarc"]["dict_path"]), states["Downstream"]
    symbols, num_classes = read_symbols(dictionary), len(weights["model.linear.bias"])
    if len(symbols) != num_classes:
        raise ValueError(
            f"dict_path {dictionary} has {len(symbols)} symbols and the head {num_classes}; put the dictionary back "
            "that it was trained with."
        )
    return HeadConfig(
        num_hidden_states=len(states["Featurizer"]["weights"]),
        embed_dim=weights["projector.weight"].shape[1],
        normalize=bool(args.upstream_feature_normalize),
        project_dim=model["project_dim"],
        dims=list(rnns["dim"]),
        layer_norms=[bool(wanted) for wanted in rnns["layer_norm"][:num_lstms]],
        projections=[bool(wanted) for wanted in rnns["proj"][:num_lstms]],
        symbols=symbols,
        blank=SPECIAL.index("<s>"),
        end=SPECIAL.index("</s>"),
    )


def head_state(states: dict[str, Any], config: HeadConfig) -> dict[str, torch.Tensor]:
    """s3prl's weights under headrace's names."""
    weights = states["Downstream"]
    renamed = {"project": "projector", "classify": "model.linear"}
    for i in range(len(config.dims)):
        renamed[f"lstms.{i}"] = f"model.rnns.{i}.layer"
        renamed[f"norms.{i}"] = f"model.rnns.{i}.ln"
        renamed[f"projections.{i}.0"] = f"model.rnns.{i}.pj"
    state = {"layer_weights": states["Featurizer"]["weights"]}
    for ours, theirs in renamed.items():
        prefix = f"{theirs}."
        state |= {f"{ours}.{key.removeprefix(prefix)}": x for key, x in weights.items() if key.startswith(prefix)}
    return state


def read_symbols(path: Path) -> list[str]:
    """The symbols of a dictionary file of fairseq: one a line, and a count.

    Raises:
        ValueError: no such file.
    """
    if not path.is_file():
        raise ValueError(f"dict_path {path}: no such file; put the dictionary back that the head was trained with.")
    return SPECIAL + [line.rsplit(" ", 1)[0] for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]

# SPDX-License-Identifier: Apache-2.0
"""Read fairseq's .pt files without running what they pickle.

``torch.load(weights_only=True)`` builds tensors and plain containers only. Checkpoints also carry a few classes of
argparse, omegaconf and fairseq; each gets an inert stand-in that keeps attributes and does nothing. Anything else is
refused by name.
"""

from __future__ import annotations

import argparse
import pickle
import re
import warnings
from pathlib import Path
from typing import Any

import torch


class Inert:
    """Keeps the state of an object of another library, without its class."""

    def __init__(self, *args: object) -> None:
        self.args = args

    def __setstate__(self, state: object) -> None:
        self.__dict__.update(state if isinstance(state, dict) else {"state": state})


STAND_INS = (
    "argparse.Namespace",
    "omegaconf.base.ContainerMetadata",
    "omegaconf.base.Metadata",
    "omegaconf.dictconfig.DictConfig",
    "omegaconf.listconfig.ListConfig",
    "omegaconf.nodes.AnyNode",
    "omegaconf.nodes.BooleanNode",
    "omegaconf.nodes.EnumNode",
    "omegaconf.nodes.FloatNode",
    "omegaconf.nodes.IntegerNode",
    "omegaconf.nodes.StringNode",
    "fairseq.data.dictionary.Dictionary",
    "fairseq.dataclass.configs.FairseqConfig",
    "fairseq.models.hubert.hubert.HubertConfig",
    "fairseq.models.wav2vec.wav2vec2.Wav2Vec2Config",
    "fairseq.tasks.audio_pretraining.AudioPretrainingConfig",
    "fairseq.tasks.hubert_pretraining.HubertPretrainingConfig",
    "typing.Any",
)


def read(path: Path) -> dict[str, Any]:
    """The checkpoint as plain dicts, lists, numbers, strings and tensors (on the CPU).

    Raises:
        ValueError: not a file of torch.save, or one that pickles a class outside STAND_INS.
        FileNotFoundError: there is no such file.
    """
    allowed: list[Any] = [(type(name.rpartition(".")[2], (Inert,), {}), name) for name in STAND_INS]
    try:
        with torch.serialization.safe_globals(allowed), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickle protocols that torch.save does not write: errors say it below
            content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except pickle.UnpicklingError as error:
        refused = re.search(r"GLOBAL ([\w.]+)", str(error))
        reason = f"it pickles {refused[1]}, which is not run" if refused else str(error).partition("\n")[0]
        raise ValueError(f"{path} is refused: {reason}. Only checkpoints of fairseq are read.") from None
    except (RuntimeError, EOFError, OSError) as error:
        reason = str(error).partition("\n")[0] or "it ends too early"
        raise ValueError(f"{path} is not a readable checkpoint: {reason}.") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} is not a fairseq checkpoint: expected a dict, got {type(content).__name__}.")
    return content | {key: plain(content[key]) for key in ("args", "cfg") if key in content}


def plain(value: object) -> Any:
    """An inert configuration object as dicts and lists."""
    if isinstance(value, Inert):
        fields = vars(value)
        return plain(fields.get("_content", fields.get("_val", fields)))
    if isinstance(value, argparse.Namespace):  # itself, where the process has told torch that it is safe
        return plain(vars(value))
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items() if key != "args" or item}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value

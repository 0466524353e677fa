# SPDX-License-Identifier: Apache-2.0
"""What the commands in pretrain/labels share: mistakes in one line, and the encoder that features come from."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from headrace import checkpoint
from headrace.encoder import SpeechEncoder
from headrace_labels.features import Features, Layer, Mfcc

# fairseq's names, and what each is read as
ARGUMENTS: dict[str, type] = {
    "tsv_dir": Path,
    "feat_dir": Path,
    "lab_dir": Path,
    "km_path": Path,
    "ckpt_path": Path,
    "corpus": Path,
    "split": str,
    "layer": int,
    "nshard": int,
    "rank": int,
    "n_clusters": int,
    "label_rate": float,
}


def parser_of(description: str | None, arguments: str) -> argparse.ArgumentParser:
    """A command whose positional arguments are those named, in this order."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in arguments.split():
        parser.add_argument(name, type=ARGUMENTS[name])
    return parser


def run(parser: argparse.ArgumentParser, main: Callable[[argparse.Namespace], None]) -> int:
    """The exit code: 0; 2 and one line for the caller's mistake; 1 and one line for a full disk and the like."""
    try:
        main(parser.parse_args())
    except (ValueError, OSError) as error:
        print(f"{Path(sys.argv[0]).name}: {error}", file=sys.stderr)
        return 2 if isinstance(error, ValueError) else 1
    return 0


def features_of(ckpt_path: Path | None, layer: int) -> Features:
    """A layer of an encoder; MFCC where none is given.

    Raises:
        ValueError: it is no encoder, or has no such layer.
    """
    return Mfcc() if ckpt_path is None else Layer(load_encoder(ckpt_path), layer)


def load_encoder(path: Path) -> SpeechEncoder:
    """Of a fairseq checkpoint or a portable folder, in eval mode, on a GPU where there is one. No pickles run.

    Raises:
        ValueError: it is neither, or damaged.
    """
    encoder = checkpoint.load(path) if path.is_dir() else checkpoint.from_fairseq(path)
    return encoder.to("cuda" if torch.cuda.is_available() else "cpu")

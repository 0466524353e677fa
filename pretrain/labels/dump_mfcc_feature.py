#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""MFCC (39 numbers, 100 frames a second) of a part of a manifest: FEAT_DIR/SPLIT_RANK_NSHARD.npy and .len.

    python pretrain/labels/dump_mfcc_feature.py TSV_DIR SPLIT NSHARD RANK FEAT_DIR

fairseq's arguments. Killed, the same command goes on.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parents[2])]

from headrace_labels.command import parser_of, run  # noqa: E402
from headrace_labels.feature_file import dump  # noqa: E402
from headrace_labels.features import Mfcc  # noqa: E402
from headrace_labels.shards import Shard, read_manifest  # noqa: E402


def main(options: argparse.Namespace) -> None:
    """Dump."""
    shard = Shard(options.split, options.nshard, options.rank)
    dump(read_manifest(options.tsv_dir, options.split), shard, Mfcc(), options.feat_dir)


def parser() -> argparse.ArgumentParser:
    """fairseq's arguments, in fairseq's order."""
    return parser_of(__doc__, "tsv_dir split nshard rank feat_dir")


if __name__ == "__main__":
    sys.exit(run(parser(), main))

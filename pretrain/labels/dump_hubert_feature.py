#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Hidden states of a layer for a part of a manifest: FEAT_DIR/SPLIT_RANK_NSHARD.npy and .len.

    python pretrain/labels/dump_hubert_feature.py TSV_DIR SPLIT CKPT_PATH LAYER NSHARD RANK FEAT_DIR

fairseq's arguments; CKPT_PATH may be a portable folder too. LAYER counts from 1, as in fairseq; 0 is what the first
layer sees. Killed, the same command goes on.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parents[2])]

from headrace_labels.command import load_encoder, parser_of, run  # noqa: E402
from headrace_labels.feature_file import dump  # noqa: E402
from headrace_labels.features import MAX_CHUNK, Layer  # noqa: E402
from headrace_labels.shards import Shard, read_manifest  # noqa: E402


def main(options: argparse.Namespace) -> None:
    """Dump."""
    features = Layer(load_encoder(options.ckpt_path), options.layer, options.max_chunk)
    shard = Shard(options.split, options.nshard, options.rank)
    dump(read_manifest(options.tsv_dir, options.split), shard, features, options.feat_dir)


def parser() -> argparse.ArgumentParser:
    """fairseq's arguments, in fairseq's order."""
    p = parser_of(__doc__, "tsv_dir split ckpt_path layer nshard rank feat_dir")
    p.add_argument("--max_chunk", type=int, default=MAX_CHUNK, help="samples at once (default %(default)s)")
    return p


if __name__ == "__main__":
    sys.exit(run(parser(), main))

#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Label the frames of FEAT_DIR/SPLIT_RANK_NSHARD.npy with the nearest clusters: LAB_DIR/SPLIT_RANK_NSHARD.km.

    python pretrain/labels/dump_km_label.py FEAT_DIR SPLIT KM_PATH NSHARD RANK LAB_DIR

fairseq's arguments. Label train and valid with the same KM_PATH; then join the parts with join_km_label.py.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parents[2])]

from headrace_labels import clusters  # noqa: E402
from headrace_labels.command import parser_of, run  # noqa: E402
from headrace_labels.feature_file import FeatureFile  # noqa: E402
from headrace_labels.label_file import write_part  # noqa: E402
from headrace_labels.shards import Shard  # noqa: E402


def main(options: argparse.Namespace) -> None:
    """Label."""
    shard = Shard(options.split, options.nshard, options.rank)
    file = FeatureFile(options.feat_dir / shard.stem)
    found = clusters.load_for(options.km_path, file.dim, str(file.npy))
    write_part(file.utterances(), found, options.lab_dir / f"{shard.stem}.km", file.made_of)


def parser() -> argparse.ArgumentParser:
    """fairseq's arguments, in fairseq's order."""
    return parser_of(__doc__, "feat_dir split km_path nshard rank lab_dir")


if __name__ == "__main__":
    sys.exit(run(parser(), main))

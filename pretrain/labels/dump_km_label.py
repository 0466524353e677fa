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
from headrace_labels.command import run  # noqa: E402
from headrace_labels.feature_file import FeatureFile  # noqa: E402
from headrace_labels.label_file import write_part  # noqa: E402
from headrace_labels.shards import Shard  # noqa: E402


def main(options: argparse.Namespace) -> None:
    """Label."""
    shard = Shard(options.split, options.nshard, options.rank)
    file, found = FeatureFile(options.feat_dir / shard.stem), clusters.load(options.km_path)
    if file.num_frames and file.dim != found.centroids.shape[1]:
        raise ValueError(f"{options.km_path} clusters frames of {found.centroids.shape[1]} numbers, those of "
                         f"{file.npy} have {file.dim}: learn the clusters from these features.")  # fmt: skip
    write_part(file.utterances(), found, options.lab_dir / f"{shard.stem}.km")


def parser() -> argparse.ArgumentParser:
    """fairseq's arguments, in fairseq's order."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("feat_dir", type=Path)
    p.add_argument("split")
    p.add_argument("km_path", type=Path)
    p.add_argument("nshard", type=int)
    p.add_argument("rank", type=int)
    p.add_argument("lab_dir", type=Path)
    return p


if __name__ == "__main__":
    sys.exit(run(parser(), main))

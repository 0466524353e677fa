#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Label audio straight away, without files of features: LAB_DIR/SPLIT.km, its note, and dict.km.txt for each split.

    python pretrain/labels/label_audio.py TSV_DIR KM_PATH LAB_DIR train valid
    torchrun --nproc-per-node 8 pretrain/labels/label_audio.py TSV_DIR KM_PATH LAB_DIR train valid \\
        --ckpt_path CHECKPOINT --layer 6

One model labels all splits. Killed, the same command goes on.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parents[2])]

from headrace_labels import clusters, processes  # noqa: E402
from headrace_labels.clusters import Clusters  # noqa: E402
from headrace_labels.command import features_of, parser_of, run  # noqa: E402
from headrace_labels.label_file import join_parts, label_audio  # noqa: E402
from headrace_labels.note import Note  # noqa: E402
from headrace_labels.shards import Shard, read_manifest  # noqa: E402


def main(options: argparse.Namespace) -> None:
    """Label each process's part; the first process joins them."""
    with processes.joined() as device:
        features = features_of(options.ckpt_path, options.layer)
        found = clusters.load_for(options.km_path, features.dim, features.name)
        on_device = Clusters(found.centroids.to(device))
        for split in options.splits:
            manifest = read_manifest(options.tsv_dir, split)
            label_audio(
                manifest, Shard(split, processes.size(), processes.rank()), features, on_device, options.lab_dir
            )
        processes.barrier()
        for split in options.splits if processes.rank() == 0 else []:
            manifest = read_manifest(options.tsv_dir, split)
            note = Note(manifest.rows, found.digest, features.rate, features.name, len(found.centroids))
            join_parts(options.lab_dir, split, processes.size(), manifest, note)


def parser() -> argparse.ArgumentParser:
    """fairseq's names."""
    p = parser_of(__doc__, "tsv_dir km_path lab_dir")
    p.add_argument("splits", nargs="+")
    p.add_argument("--ckpt_path", type=Path, help="an encoder; without, MFCC")
    p.add_argument("--layer", type=int, default=6, help="of it (default %(default)s)")
    return p


if __name__ == "__main__":
    sys.exit(run(parser(), main))

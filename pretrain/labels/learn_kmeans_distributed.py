#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Cluster a split's frames on many processes or machines, without ever writing them: Lloyd's algorithm under torchrun.

    torchrun --nproc-per-node 8 pretrain/labels/learn_kmeans_distributed.py TSV_DIR SPLIT KM_PATH N_CLUSTERS
    torchrun ... learn_kmeans_distributed.py TSV_DIR SPLIT KM_PATH N_CLUSTERS --ckpt_path CHECKPOINT --layer 6

Every process computes the features of its part in each epoch: MFCC, or a layer of an encoder. Killed, the same command
goes on from the last epoch, in any number of processes.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parents[2])]

from headrace_labels import clusters, lloyd, processes  # noqa: E402
from headrace_labels.command import features_of, parser_of, run  # noqa: E402
from headrace_labels.frames import LiveFrames, drawn  # noqa: E402
from headrace_labels.shards import Shard, read_manifest  # noqa: E402


def main(options: argparse.Namespace) -> None:
    """Learn; the first process writes."""
    with processes.joined() as device:
        manifest = read_manifest(options.tsv_dir, options.split)
        features = features_of(options.ckpt_path, options.layer)
        chosen = drawn(len(manifest), options.percent, options.seed)
        own = Shard(options.split, processes.size(), processes.rank()).indices(len(chosen))
        frames = LiveFrames(manifest, [chosen[index] for index in own], features)
        progress = options.km_path.with_name(options.km_path.name + ".progress")
        found = lloyd.fit(frames, options.n_clusters, options.seed, options.epochs, options.tolerance, progress, device)
        if processes.rank() == 0:
            clusters.save(found, options.km_path)
            progress.unlink(missing_ok=True)


def parser() -> argparse.ArgumentParser:
    """fairseq's names."""
    p = parser_of(__doc__, "tsv_dir split km_path n_clusters")
    p.add_argument("--ckpt_path", type=Path, help="an encoder; without, MFCC")
    p.add_argument("--layer", type=int, default=6, help="of it (default %(default)s)")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--percent", type=float, default=-1, help="of the utterances; -1: all (default)")
    p.add_argument("--epochs", type=int, default=100, help="at most (default %(default)s)")
    p.add_argument("--tolerance", type=float, default=1e-4, help="end when an epoch gains less than this share")
    return p


if __name__ == "__main__":
    sys.exit(run(parser(), main))

#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Cluster the frames of FEAT_DIR/SPLIT_*_NSHARD.npy on this machine, in bounded memory.

    python pretrain/labels/learn_kmeans.py FEAT_DIR SPLIT NSHARD KM_PATH N_CLUSTERS

fairseq's arguments. KM_PATH is written as safetensors if it is called so, else as the joblib file that fairseq reads.
--percent keeps its meaning: the share of all utterances to learn from, -1 for all. Killed, the same command goes on.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parents[2])]

from headrace_labels import clusters, minibatch  # noqa: E402
from headrace_labels.command import parser_of, run  # noqa: E402
from headrace_labels.feature_file import FeatureFile  # noqa: E402
from headrace_labels.frames import StoredFrames  # noqa: E402
from headrace_labels.shards import Shard  # noqa: E402


def main(options: argparse.Namespace) -> None:
    """Learn, and print the inertia."""
    stems = [options.feat_dir / Shard(options.split, options.nshard, rank).stem for rank in range(options.nshard)]
    frames = StoredFrames([FeatureFile(stem) for stem in stems], options.percent, options.seed)
    progress = options.km_path.with_name(options.km_path.name + ".progress")
    found = minibatch.fit(frames, options.n_clusters, options.seed, progress)
    clusters.save(found, options.km_path)
    minibatch.forget(progress)
    print(f"{options.km_path}: {options.n_clusters} clusters of {frames.num_frames} frames, "
          f"inertia {minibatch.inertia(frames, found):.6g} a frame", flush=True)  # fmt: skip


def parser() -> argparse.ArgumentParser:
    """fairseq's arguments, in fairseq's order."""
    p = parser_of(__doc__, "feat_dir split nshard km_path n_clusters")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--percent", type=float, default=-1, help="of the utterances; -1: all (default)")
    return p


if __name__ == "__main__":
    sys.exit(run(parser(), main))

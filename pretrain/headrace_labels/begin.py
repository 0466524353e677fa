# SPDX-License-Identifier: Apache-2.0
"""Where k-means begins: k-means++ on a sample of the frames, the same sample for any number of processes.

Also where what a killed run left cannot be read.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from sklearn.cluster import kmeans_plusplus

SAMPLE_PER_CLUSTER = 60  # frames that k-means++ chooses from


def check_enough(num_frames: int, num_clusters: int) -> None:
    """Raise ValueError for fewer frames than clusters, or fewer than one cluster."""
    if num_clusters < 1:
        raise ValueError(f"the number of clusters must be 1 or more, got {num_clusters}.")
    if num_frames < num_clusters:
        raise ValueError(
            f"{num_clusters} clusters of {num_frames} frames: there must be as many frames at least; take fewer "
            "clusters or more speech."
        )


def first_centroids(sample: np.ndarray, num_clusters: int, seed: int) -> np.ndarray:
    """k-means++: [K, dim] frames of a sample, each drawn far from those before it."""
    centroids, _ = kmeans_plusplus(np.ascontiguousarray(sample, dtype=np.float32), num_clusters, random_state=seed)
    return centroids


def sample_positions(num_frames: int, num_clusters: int, seed: int) -> np.ndarray:
    """Positions of the frames that k-means++ chooses from, ascending; the same for any number of processes."""
    return draw(num_frames, SAMPLE_PER_CLUSTER * num_clusters, seed)


def unreadable(progress_file: Path, error: Exception) -> str:
    """The line that tells why a run begins again, though an earlier one left its progress."""
    reason = " ".join(str(error).split()) or type(error).__name__
    return f"{progress_file} cannot be read ({reason}): k-means begins again"


def draw(total: int, count: int, seed: int) -> np.ndarray:
    """Ascending positions of ``count`` of ``total`` frames, or of all."""
    return np.sort(np.random.default_rng(seed).choice(total, min(total, count), replace=False))

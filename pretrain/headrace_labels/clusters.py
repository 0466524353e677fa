# SPDX-License-Identifier: Apache-2.0
"""A k-means model: centroids, and which of them a frame is nearest to.

Stored as safetensors, or, under any other name, as the joblib file of scikit-learn that fairseq writes and reads.
"""

from __future__ import annotations

import hashlib
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import safetensors
import torch
from safetensors.torch import load_file

from headrace.checkpoint.files import write_tensors, written_whole

DAMAGED = (KeyError, AttributeError, IndexError, ImportError, EOFError, ValueError)  # what half a pickle may raise
PIECE = 4096  # frames whose distances to all centroids are held at once


@dataclass(frozen=True)
class Clusters:
    """Centroids [K, dim] float32."""

    centroids: torch.Tensor

    @property
    def digest(self) -> str:
        """SHA-256 of the centroids: labels of one model have the same."""
        return hashlib.sha256(self.centroids.contiguous().cpu().numpy().tobytes()).hexdigest()

    def nearest(self, frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The nearest centroid of each frame, and the square of its distance.

        Args:
            frames: [n, dim] float32, on the centroids' device.

        Returns:
            [n] int64 and [n] float32, at least 0. Of centroids as near as each other the first.
        """
        labels, distances = [], []
        half_norms = self.centroids.square().sum(1) / 2
        for piece in frames.split(PIECE):
            closeness = torch.addmm(half_norms, piece, self.centroids.T, alpha=-1)  # |c|^2 / 2 - x.c
            nearest, label = closeness.min(1)
            labels.append(label)
            distances.append((piece.square().sum(1) + 2 * nearest).clamp(min=0))
        if not labels:
            return torch.zeros(0, dtype=torch.int64), torch.zeros(0)
        return torch.cat(labels), torch.cat(distances)


def save(clusters: Clusters, path: Path) -> None:
    """Write a model; it appears whole. See the head of this file for the two formats.

    Raises:
        OSError: it could not be written; what stood there before stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as partial:
        if path.suffix == ".safetensors":
            write_tensors({"centroids": clusters.centroids.cpu().contiguous()}, partial)
        else:
            joblib.dump(_for_fairseq(clusters), partial)


def load(path: Path) -> Clusters:
    """Read a model.

    A joblib file is a pickle: it runs whatever its author put into it, so take one from people you trust only.

    Raises:
        ValueError: no such file, or it holds no centroids.
    """
    if not path.is_file():
        raise ValueError(f"{path} is not there: learn it with pretrain/labels/learn_kmeans.py.")
    try:
        if path.suffix == ".safetensors":
            centroids = load_file(path)["centroids"]
        else:
            centroids = torch.from_numpy(np.asarray(joblib.load(path).cluster_centers_, dtype=np.float32))
    except (safetensors.SafetensorError, pickle.UnpicklingError, *DAMAGED) as error:
        raise ValueError(f"{path} holds no k-means model: {error}; learn it again.") from None
    return Clusters(centroids.float())


def load_for(path: Path, dim: int, source: str) -> Clusters:
    """Read a model for frames of ``dim`` numbers, which come from ``source``.

    Raises:
        ValueError: as ``load``, and for a model of other frames.
    """
    found = load(path)
    if found.centroids.shape[1] != dim:
        raise ValueError(
            f"{path} clusters frames of {found.centroids.shape[1]} numbers, those of {source} have {dim}: learn the "
            "clusters from these features."
        )
    return found


def _for_fairseq(clusters: Clusters) -> Any:
    """What fairseq's dump_km_label.py loads: an estimator with cluster_centers_, which scikit-learn can use too."""
    from sklearn.cluster import MiniBatchKMeans  # here, because it takes seconds, and labelling needs none of it

    centroids = clusters.centroids.cpu().numpy().astype(np.float32)
    model = MiniBatchKMeans(n_clusters=len(centroids), init=centroids, n_init=1, batch_size=len(centroids))
    model.fit(centroids)  # one batch of the centroids themselves: every attribute is set, and they stay where they are
    model.cluster_centers_ = centroids
    return model

# SPDX-License-Identifier: Apache-2.0
"""k-means on one machine: scikit-learn's MiniBatchKMeans, fed from files in bounded memory, and on from a kill.

fairseq's learn_kmeans.py reads all frames into memory and begins 20 times. Here a batch is read when it is needed, and
k-means++ on a sample begins once. Batches move centroids less and less; a few passes of Lloyd's algorithm over all
frames end what they leave.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from pathlib import Path

import joblib
import numpy as np
import torch
from sklearn.cluster import MiniBatchKMeans
from sklearn.exceptions import InconsistentVersionWarning

from headrace.checkpoint.files import written_whole
from headrace_labels import lloyd
from headrace_labels.begin import check_enough, draw, first_centroids, sample_positions, unreadable
from headrace_labels.clusters import Clusters
from headrace_labels.frames import Frames, StoredFrames

BATCH = 10_000  # frames, as in fairseq
MAX_EPOCHS = 100
CHECK_EVERY = 10  # batches; then the inertia of the same frames is measured, and progress is saved
CHECKED = 20_000  # frames
PATIENCE = 5  # checks without an inertia that is better by TOLERANCE
TOLERANCE = 1e-3
LAST_EPOCHS, LAST_TOLERANCE = 20, 3e-4  # of Lloyd's algorithm, at most; ends when one gains less


@dataclass
class Progress:
    """Where a fit stands; what a killed one goes on from."""

    key: str
    model: MiniBatchKMeans
    epoch: int = 0
    batch: int = 0  # of the epoch
    best: float = float("inf")
    history: list[float] = field(default_factory=list)  # inertia a frame, at each check
    since_best: int = 0


def fit(frames: StoredFrames, num_clusters: int, seed: int, progress_file: Path) -> Clusters:
    """Cluster frames.

    Args:
        progress_file: written every few batches; a fit of the same frames goes on from it. The caller calls ``forget``,
            once the result is saved: until then a kill must not lose the epochs.

    Raises:
        ValueError: more clusters than frames.
    """
    check_enough(frames.num_frames, num_clusters)
    progress = _begun(progress_file, frames, num_clusters, seed)
    checked = torch.from_numpy(frames.at(draw(frames.num_frames, CHECKED, seed + 1)))
    while progress.epoch < MAX_EPOCHS and progress.since_best < PATIENCE:
        for number, batch in enumerate(frames.shuffled(max(BATCH, num_clusters), seed * 1_000_003 + progress.epoch)):
            if number < progress.batch:  # done before a kill
                continue
            progress.model.partial_fit(batch)
            progress.batch += 1
            if progress.batch % CHECK_EVERY == 0 and _is_settled(progress, checked, progress_file):
                break
        else:
            progress.epoch, progress.batch = progress.epoch + 1, 0
            if _is_settled(progress, checked, progress_file):
                break
    first, last = _clusters(progress).centroids, _last(progress_file)
    return lloyd.fit(frames, num_clusters, seed, LAST_EPOCHS, LAST_TOLERANCE, last, str(first.device), first)


def forget(progress_file: Path) -> None:
    """Remove the progress of a fit whose result is saved."""
    _last(progress_file).unlink(missing_ok=True)
    progress_file.unlink(missing_ok=True)


def inertia(frames: Frames, clusters: Clusters) -> float:
    """Mean squared distance of all frames from their centroids."""
    total = sum(float(clusters.nearest(torch.from_numpy(piece))[1].double().sum()) for piece in frames.in_order())
    return total / frames.num_frames


def _is_settled(progress: Progress, checked: torch.Tensor, progress_file: Path) -> bool:
    """Whether it has stopped getting better; tells and saves where it stands."""
    mean = float(_clusters(progress).nearest(checked)[1].double().mean())
    progress.history.append(mean)
    progress.since_best += 1
    if mean < progress.best * (1 - TOLERANCE):
        progress.best, progress.since_best = mean, 0
    print(f"k-means epoch {progress.epoch + 1}, batch {progress.batch}: inertia {mean:.6g} a frame; better "
          f"{progress.since_best} checks ago, ends at {PATIENCE}", flush=True)  # fmt: skip
    with written_whole(progress_file) as partial:
        joblib.dump(progress, partial)
    return progress.since_best >= PATIENCE


def _begun(path: Path, frames: StoredFrames, num_clusters: int, seed: int) -> Progress:
    key = f"{num_clusters} {seed} {frames.digest()}"
    found = _load(path)
    if found is not None and found.key == key:
        print(f"k-means goes on from epoch {found.epoch + 1}, batch {found.batch}", flush=True)
        return found
    path.parent.mkdir(parents=True, exist_ok=True)
    sample = frames.at(sample_positions(frames.num_frames, num_clusters, seed))
    first = first_centroids(sample, num_clusters, seed)
    model = MiniBatchKMeans(
        num_clusters,
        init=first,
        n_init=1,
        batch_size=BATCH,
        random_state=seed,
        reassignment_ratio=0.0,
        compute_labels=False,
    )
    return Progress(key, model)


def _load(path: Path) -> Progress | None:
    """What a run left; None where there is none, or none that can be read."""
    if not path.is_file():
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", InconsistentVersionWarning)  # another scikit-learn's fit may go on wrongly
            found = joblib.load(path)
        if not isinstance(found, Progress):
            raise TypeError(f"it holds {type(found).__name__}")
    except Exception as error:  # half a pickle may raise anything
        print(unreadable(path, error), flush=True)
        return None
    return found


def _last(progress_file: Path) -> Path:
    """The progress of the last passes of Lloyd's algorithm."""
    return progress_file.with_name(f"{progress_file.name}.last")


def _clusters(progress: Progress) -> Clusters:
    return Clusters(torch.from_numpy(progress.model.cluster_centers_.astype(np.float32)))

# SPDX-License-Identifier: Apache-2.0
"""k-means on many machines: Lloyd's algorithm, each process with its part of the frames, under torchrun.

In each epoch every process assigns its own frames; sums and counts [K, dim] are added over all of them, and nothing
else travels. The result is that of one process with all frames, to rounding. A cluster that nothing is nearest to
starts again at the frame that is farthest from its own centroid.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors
import torch
from safetensors.torch import load_file

from headrace.checkpoint.files import write_tensors, written_whole
from headrace_labels import processes
from headrace_labels.begin import check_enough, first_centroids, sample_positions
from headrace_labels.clusters import Clusters
from headrace_labels.frames import Frames

MOST_RESEEDED = 100  # empty clusters that begin again in one epoch; the others stay where they are until the next


@dataclass(frozen=True)
class Epoch:
    """What one pass over all frames found. inertia: mean squared distance before the update. reseeded: clusters."""

    inertia: float
    reseeded: int


def fit(
    frames: Frames,
    num_clusters: int,
    seed: int,
    max_epochs: int,
    tolerance: float,
    progress_file: Path,
    device: str,
    first: torch.Tensor | None = None,
) -> Clusters:
    """Cluster the frames of all processes; every process returns the same.

    Args:
        first: centroids [K, dim] to begin with; without, k-means++.
        tolerance: ends when an epoch improves the inertia by less than this share of it.
        progress_file: centroids after each epoch, written by the first process, read by it when it starts again.

    Raises:
        ValueError: more clusters than frames in all processes together.
    """
    counts = processes.gather(torch.tensor([frames.num_frames]))
    total = int(sum(counts))
    check_enough(total, num_clusters)
    before = int(sum(counts[: processes.rank()]))
    centroids, number, last = _begin(frames, counts, before, num_clusters, seed, progress_file, first)
    clusters = Clusters(centroids.to(device))
    while number < max_epochs:
        clusters, epoch = _epoch(frames, clusters, total)
        number += 1
        if processes.rank() == 0:
            told = f", {epoch.reseeded} empty clusters begun again" if epoch.reseeded else ""
            print(
                f"k-means epoch {number} of at most {max_epochs}: inertia {epoch.inertia:.6g} a frame{told}", flush=True
            )
            _save(progress_file, clusters, number, epoch.inertia, _key(frames, num_clusters, seed, total))
        if last is not None and epoch.reseeded == 0 and last - epoch.inertia <= tolerance * epoch.inertia:
            break
        last = epoch.inertia
    processes.barrier()
    if processes.rank() == 0:
        progress_file.unlink(missing_ok=True)
    return clusters


def _epoch(frames: Frames, clusters: Clusters, total: int) -> tuple[Clusters, Epoch]:
    centroids = clusters.centroids
    num_clusters, dim = centroids.shape
    sums = torch.zeros(num_clusters, dim + 2, dtype=torch.float64, device=centroids.device)  # sum, count, distance
    farthest = torch.zeros(0, dim + 1)
    for piece in frames.in_order():
        x = torch.from_numpy(piece).to(centroids.device)
        labels, distances = clusters.nearest(x)
        columns = torch.cat([x.double(), torch.ones(len(x), 1, device=x.device), distances[:, None].double()], 1)
        sums.index_add_(0, labels, columns)
        floor = farthest[-1, 0] if len(farthest) == MOST_RESEEDED else -1.0  # no frame nearer than that is needed
        far = torch.nonzero(distances >= floor).flatten()
        if len(far):
            rows = torch.cat([distances[far, None], x[far]], 1).cpu()
            farthest = _farthest(torch.cat([farthest, rows]), MOST_RESEEDED)
    processes.add_up(sums)
    counts = sums[:, dim : dim + 1]
    empty = torch.nonzero(counts[:, 0] == 0).flatten()
    moved = torch.where(counts > 0, (sums[:, :dim] / counts.clamp(min=1)).float(), centroids)
    if len(empty):
        candidates = _farthest(torch.cat(processes.gather_rows(farthest)), min(len(empty), MOST_RESEEDED))
        moved[empty[: len(candidates)]] = candidates[:, 1:].to(moved)
    return Clusters(moved), Epoch(float(sums[:, dim + 1].sum()) / total, len(empty))


def _farthest(rows: torch.Tensor, count: int) -> torch.Tensor:
    """Rows [distance, frame] of the largest distances, the largest first, in one order for any split."""
    order = np.lexsort([rows[:, 1:].sum(1).numpy(), -rows[:, 0].numpy()])
    return rows[torch.from_numpy(order[:count].copy())]


def _begin(
    frames: Frames,
    counts: list[torch.Tensor],
    before: int,
    num_clusters: int,
    seed: int,
    progress_file: Path,
    first: torch.Tensor | None,
) -> tuple[torch.Tensor, int, float | None]:
    """Centroids, epochs done and the last inertia: where a killed run stood, else ``first``, else by k-means++."""
    total = int(sum(counts))
    found = _load(progress_file, _key(frames, num_clusters, seed, total)) if processes.rank() == 0 else None
    state = torch.tensor(
        [0.0 if found is None else 1.0 + found[1], 0.0 if found is None else found[2]], dtype=torch.float64
    )
    processes.broadcast(state)
    if state[0] > 0:
        centroids = torch.zeros(num_clusters, frames.dim) if found is None else found[0]
        processes.broadcast(centroids)
        return centroids, int(state[0]) - 1, float(state[1])
    if first is not None:
        return first, 0, None
    positions = sample_positions(total, num_clusters, seed)
    own = positions[(positions >= before) & (positions < before + frames.num_frames)] - before
    sample = torch.cat(processes.gather_rows(torch.from_numpy(frames.at(own))))
    centroids = torch.zeros(num_clusters, frames.dim)
    if processes.rank() == 0:
        centroids = torch.from_numpy(first_centroids(sample.numpy(), num_clusters, seed)).float()
    processes.broadcast(centroids)
    return centroids, 0, None


def _key(frames: Frames, num_clusters: int, seed: int, total: int) -> str:
    return f"{num_clusters} {seed} {total} {frames.digest()}"


def _save(path: Path, clusters: Clusters, number: int, inertia: float, key: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    state = torch.tensor([number, inertia], dtype=torch.float64)
    tensors = {"centroids": clusters.centroids.cpu(), "state": state, "key": torch.tensor(list(key.encode()))}
    with written_whole(path) as partial:
        write_tensors(tensors, partial)


def _load(path: Path, key: str) -> tuple[torch.Tensor, int, float] | None:
    if not path.is_file():
        return None
    try:
        found = load_file(path)
    except safetensors.SafetensorError:
        return None
    if bytes(found["key"].tolist()).decode() != key:
        return None
    return found["centroids"], int(found["state"][0]), float(found["state"][1])

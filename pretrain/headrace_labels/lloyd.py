# SPDX-License-Identifier: Apache-2.0
"""k-means on many machines: Lloyd's algorithm, each process with its part of the frames, under torchrun.

In each epoch every process assigns its own frames; sums and counts [K, dim] are added over all of them, and nothing
else travels. The result is that of one process with all frames, to rounding. A cluster that nothing is nearest to
starts again at the frame that is farthest from its own centroid.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors
import torch
from safetensors.torch import load_file

from headrace.checkpoint.files import write_tensors, written_whole
from headrace_labels import processes
from headrace_labels.begin import check_enough, first_centroids, sample_positions, unreadable
from headrace_labels.clusters import DAMAGED, Clusters
from headrace_labels.frames import Frames

MOST_RESEEDED = 100  # empty clusters that begin again in one epoch; the others stay where they are until the next


@dataclass(frozen=True)
class Epoch:
    """What one pass over all frames found. inertia: mean squared distance before the update. reseeded: clusters."""

    inertia: float
    reseeded: int


@dataclass(frozen=True)
class Standing:
    """Where a fit stands after ``number`` epochs. gain: of inertia by the last; infinite while nobody knows."""

    centroids: torch.Tensor
    number: int = 0
    inertia: float = 0.0
    gain: float = math.inf


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
        progress_file: centroids after each epoch, written by the first process, read by it when it starts again. The
            caller removes it, once the result is saved: until then a kill must not lose the epochs.

    Raises:
        ValueError: more clusters than frames in all processes together.
    """
    counts = processes.gather(torch.tensor([frames.num_frames]))
    total = int(sum(counts))
    check_enough(total, num_clusters)
    before = int(sum(counts[: processes.rank()]))
    standing = _begin(frames, counts, before, num_clusters, seed, progress_file, first)
    clusters = Clusters(standing.centroids.to(device))
    while standing.number < max_epochs and standing.gain > tolerance * standing.inertia:
        clusters, epoch = _epoch(frames, clusters, total)
        is_first = standing.number == 0
        gain = math.inf if is_first or epoch.reseeded else standing.inertia - epoch.inertia
        standing = Standing(clusters.centroids, standing.number + 1, epoch.inertia, gain)
        if processes.rank() == 0:
            told = f", {epoch.reseeded} empty clusters begun again" if epoch.reseeded else ""
            print(f"k-means epoch {standing.number} of at most {max_epochs}: inertia {epoch.inertia:.6g} a frame{told}",
                  flush=True)  # fmt: skip
            _save(progress_file, standing, _key(frames, num_clusters, seed, total))
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
) -> Standing:
    """Where a killed run stood, else ``first``, else by k-means++."""
    total = int(sum(counts))
    found = _load(progress_file, _key(frames, num_clusters, seed, total)) if processes.rank() == 0 else None
    state = torch.zeros(3, dtype=torch.float64) if found is None else _state(found)
    processes.broadcast(state)
    if state[0] > 0:  # epochs
        centroids = torch.zeros(num_clusters, frames.dim) if found is None else found.centroids
        processes.broadcast(centroids)
        return Standing(centroids, int(state[0]), float(state[1]), float(state[2]))
    if first is not None:
        return Standing(first)
    positions = sample_positions(total, num_clusters, seed)
    own = positions[(positions >= before) & (positions < before + frames.num_frames)] - before
    sample = torch.cat(processes.gather_rows(torch.from_numpy(frames.at(own))))
    centroids = torch.zeros(num_clusters, frames.dim)
    if processes.rank() == 0:
        centroids = torch.from_numpy(first_centroids(sample.numpy(), num_clusters, seed)).float()
    processes.broadcast(centroids)
    return Standing(centroids)


def _key(frames: Frames, num_clusters: int, seed: int, total: int) -> str:
    return f"{num_clusters} {seed} {total} {frames.digest()}"


def _state(standing: Standing) -> torch.Tensor:
    return torch.tensor([standing.number, standing.inertia, standing.gain], dtype=torch.float64)


def _save(path: Path, standing: Standing, key: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {
        "centroids": standing.centroids.cpu(),
        "state": _state(standing),
        "key": torch.tensor(list(key.encode())),
    }
    with written_whole(path) as partial:
        write_tensors(tensors, partial)


def _load(path: Path, key: str) -> Standing | None:
    """What a run of the same key left; None where there is none, or none that can be read."""
    if not path.is_file():
        return None
    try:
        found = load_file(path)
        number, inertia, gain = found["state"].tolist()
        standing, of = Standing(found["centroids"], int(number), inertia, gain), bytes(found["key"].tolist()).decode()
    except (safetensors.SafetensorError, OSError, *DAMAGED) as error:
        print(unreadable(path, error), flush=True)
        return None
    return standing if of == key else None

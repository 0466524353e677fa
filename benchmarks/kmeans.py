# SPDX-License-Identifier: Apache-2.0
"""k-means of more frames than one wants in memory: learn_kmeans.py of headrace beside what fairseq's computes.

    python benchmarks/kmeans.py                                   # the target; benchmarks/results/kmeans_cpu.json
    python benchmarks/kmeans.py --frames 100000 --repeats 1       # another size, not stored

Frames are drawn: utterances that glide between 2000 places, with a speaker's shift and noise, in directions of very
different size. Each way runs in a process of its own, in turn, from the files of a dump to the inertia of all frames.
fairseq's way is scikit-learn's MiniBatchKMeans on all frames in memory, with the values of its learn_kmeans.py.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from timing import CHECKOUT, machine

RESULTS = Path(__file__).resolve().parent / "results"
FRAMES, DIM, CLUSTERS = 2_000_000, 768, 500
UTTERANCE, PLACES, FRAMES_A_GLIDE = 500, 2000, 8
MOST_BYTES, INERTIA_SHARE = 3e9, 1.01
FAIRSEQ = {"init": "k-means++", "max_iter": 100, "batch_size": 10_000, "tol": 0.0, "max_no_improvement": 100,
           "n_init": 20, "reassignment_ratio": 0.0, "compute_labels": False}  # fmt: skip
WAYS = ("headrace", "fairseq")


def main() -> int:
    """Measure, print and store; 1 when a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=FRAMES)
    parser.add_argument("--clusters", type=int, default=CLUSTERS)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="for the frames, 3 kB each; removed at the end")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        print(json.dumps(fit(options.way, options.folder, options.clusters)))
        return 0
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        write_frames(Path(folder), options.frames)
        runs: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
        for done in range(1, options.repeats + 1):
            for way in WAYS:
                runs[way].append(in_a_process(way, Path(folder), options.clusters))
                print(f"{way}: {told(runs[way][-1])}", flush=True)
            case = compare(runs) | {"frames": options.frames, "dim": DIM, "clusters": options.clusters}
            if (options.frames, options.clusters) == (FRAMES, CLUSTERS):  # after each round, which takes long
                text = json.dumps({"machine": machine(), "repeats": done, "cases": [case]}, indent=1)
                (RESULTS / "kmeans_cpu.json").write_text(text + "\n")
    print(f"medians: headrace takes {case['share']:.2f} of fairseq's time and has {case['inertia_share']:.4f} of its "
          f"inertia; peak {case['headrace']['bytes'] / 1e9:.2f} GB; {'met' if case['met'] else 'MISSED'}")  # fmt: skip
    return 0 if case["met"] else 1


def write_frames(folder: Path, num_frames: int) -> None:
    """The files of a dump, as dump_hubert_feature.py leaves them."""
    generator = np.random.default_rng(0)
    size = (1 + np.arange(DIM, dtype=np.float32)) ** -0.5

    def draw(count: int) -> np.ndarray:
        return generator.standard_normal((count, DIM), dtype=np.float32) * size

    places, lengths = draw(PLACES), []
    stored = np.lib.format.open_memmap(folder / "train_0_1.npy", "w+", np.float32, (num_frames, DIM))
    for begin in range(0, num_frames, UTTERANCE):
        count = min(UTTERANCE, num_frames - begin)
        stops = places[generator.integers(PLACES, size=count // FRAMES_A_GLIDE + 2)]
        at, share = np.divmod(np.arange(count) / FRAMES_A_GLIDE, 1)
        glide = stops[at.astype(int)] * (1 - share[:, None]) + stops[at.astype(int) + 1] * share[:, None]
        stored[begin : begin + count] = glide + 0.3 * draw(1) + 0.5 * draw(count)
        lengths.append(count)
    stored.flush()
    (folder / "train_0_1.len").write_text("".join(f"{count}\n" for count in lengths))


def in_a_process(way: str, folder: Path, clusters: int) -> dict[str, float]:
    """What a process that does nothing else measures."""
    command = [sys.executable, __file__, "--way", way, "--folder", str(folder), "--clusters", str(clusters)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def fit(way: str, folder: Path, clusters: int) -> dict[str, float]:
    """Seconds with the start of the process, inertia a frame, and the most bytes that it held."""
    start = time.perf_counter()
    if way == "headrace":
        script = CHECKOUT / "pretrain" / "labels" / "learn_kmeans.py"
        arguments = [str(folder), "train", "1", str(folder / "km.bin"), str(clusters)]
        done = subprocess.run([sys.executable, str(script), *arguments], stdout=subprocess.PIPE, text=True, check=True)
        inertia = float(done.stdout.split("inertia ")[-1].split()[0])
    else:
        inertia = fairseq_fit(folder, clusters)
    who = resource.RUSAGE_CHILDREN if way == "headrace" else resource.RUSAGE_SELF
    bytes_held = 1024.0 * resource.getrusage(who).ru_maxrss
    return {"seconds": time.perf_counter() - start, "inertia": inertia, "bytes": bytes_held}


def fairseq_fit(folder: Path, clusters: int) -> float:
    """Inertia a frame of scikit-learn's model with fairseq's values."""
    from sklearn.cluster import MiniBatchKMeans

    frames = np.concatenate([np.load(folder / "train_0_1.npy", mmap_mode="r")], axis=0)
    model = MiniBatchKMeans(clusters, random_state=0, **FAIRSEQ).fit(frames)
    return float(-model.score(frames) / len(frames))


def compare(runs: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """Medians of each way, and whether the targets are met."""
    middle = {way: {key: statistics.median(run[key] for run in of) for key in of[0]} for way, of in runs.items()}
    own, theirs = (middle[way] for way in WAYS)
    share, inertia_share = own["seconds"] / theirs["seconds"], own["inertia"] / theirs["inertia"]
    met = share < 1 and inertia_share <= INERTIA_SHARE and own["bytes"] <= MOST_BYTES
    return {**middle, "share": share, "inertia_share": inertia_share, "met": met}


def told(run: dict[str, float]) -> str:
    """One run in words."""
    return f"{run['seconds']:.0f} s, inertia {run['inertia']:.5g} a frame, peak {run['bytes'] / 1e9:.2f} GB"


if __name__ == "__main__":
    sys.exit(main())

# SPDX-License-Identifier: Apache-2.0
"""k-means finds what is there, in any number of processes, and goes on where it was killed."""

import runpy
import subprocess
import sys

import numpy as np
import pytest
import torch

pytest.importorskip("kaldi_native_fbank", reason="kaldi-native-fbank is not installed")
pytest.importorskip("sklearn", reason="scikit-learn is not installed")
from safetensors.torch import save_file
from sklearn.cluster import KMeans, MiniBatchKMeans

from headrace_labels import clusters, lloyd, minibatch
from headrace_labels.clusters import Clusters
from headrace_labels.frames import StoredFrames
from headrace_labels.processes import LONGEST_WAIT, joined


class Frames:
    """Frames in memory, in the way of ``headrace_labels.frames.Frames``."""

    def __init__(self, values):
        self.values = values.astype(np.float32)
        self.num_frames, self.dim = values.shape

    def in_order(self):
        yield from np.array_split(self.values, 7)

    def at(self, positions):
        return self.values[positions]

    def shuffled(self, size, seed):
        order = np.random.default_rng(seed).permutation(self.num_frames)
        for begin in range(0, self.num_frames, size):
            yield self.values[order[begin : begin + size]]

    def digest(self):
        return "these"


@pytest.fixture
def heaps():
    """Frames in 8 heaps far from each other."""
    generator = np.random.default_rng(0)
    return Frames((generator.normal(size=(8, 1, 5)) * 20 + generator.normal(size=(8, 400, 5))).reshape(-1, 5))


@pytest.fixture
def cloud():
    """Frames without heaps, where it is not clear what a cluster is."""
    return Frames(np.random.default_rng(1).normal(size=(6000, 8)))


def by_lloyd(frames, num_clusters, tmp_path, epochs=50, tolerance=0.0):
    return lloyd.fit(frames, num_clusters, 0, epochs, tolerance, tmp_path / "progress", "cpu")


@pytest.mark.parametrize("way", ["minibatch", "lloyd"])
def test_heaps_are_found(heaps, way, tmp_path):
    if way == "lloyd":
        found = by_lloyd(heaps, 8, tmp_path)
    else:
        found = minibatch.fit(heaps, 8, 0, tmp_path / "progress")
    labels = found.nearest(torch.from_numpy(heaps.values))[0].view(8, 400)
    assert (labels == labels[:, :1]).all()
    assert len(labels[:, 0].unique()) == 8


FAIRSEQ = {"batch_size": 1000, "max_iter": 100, "tol": 0.0, "max_no_improvement": 100, "n_init": 20,
           "reassignment_ratio": 0.0}  # fmt: skip


@pytest.mark.parametrize(
    ("way", "theirs"),
    [("minibatch", MiniBatchKMeans(20, random_state=0, **FAIRSEQ)), ("lloyd", KMeans(20, n_init=3, random_state=0))],
    ids=["minibatch", "lloyd"],
)
def test_inertia_is_that_of_scikit_learn_within_a_per_cent(cloud, way, theirs, tmp_path, monkeypatch):
    monkeypatch.setattr(minibatch, "BATCH", 1000)
    if way == "lloyd":
        found = by_lloyd(cloud, 20, tmp_path)
    else:
        found = minibatch.fit(cloud, 20, 0, tmp_path / "progress")
    expected = -theirs.fit(cloud.values).score(cloud.values) / cloud.num_frames
    assert minibatch.inertia(cloud, found) < 1.01 * expected


def test_one_epoch_of_lloyd_is_the_mean_of_what_is_nearest(cloud, tmp_path):
    first = by_lloyd(cloud, 10, tmp_path, epochs=3)
    labels = first.nearest(torch.from_numpy(cloud.values))[0].numpy()
    second = by_lloyd(cloud, 10, tmp_path, epochs=4)
    for number in range(10):
        np.testing.assert_allclose(second.centroids[number], cloud.values[labels == number].mean(0), atol=1e-5)


def test_a_cluster_that_nothing_is_nearest_to_begins_again_at_the_farthest_frame(heaps, monkeypatch, tmp_path):
    far = np.full((3, 5), 1e4, np.float32)
    monkeypatch.setattr(lloyd, "first_centroids", lambda *_: np.concatenate([heaps.values[::400][:5], far]))
    found = by_lloyd(heaps, 8, tmp_path)
    counts = torch.bincount(found.nearest(torch.from_numpy(heaps.values))[0], minlength=8)
    assert (counts > 0).all()


@pytest.mark.parametrize(("way", "stop"), [("minibatch", 4), ("lloyd", 5), ("minibatch, last passes", 2)])
def test_a_fit_that_was_killed_ends_where_the_undisturbed_one_ends(cloud, way, stop, tmp_path, monkeypatch):
    monkeypatch.setattr(minibatch, "BATCH", 300)
    monkeypatch.setattr(minibatch, "CHECK_EVERY", 5)

    def fit(folder):
        if way == "lloyd":
            return by_lloyd(cloud, 12, folder, epochs=12)
        return minibatch.fit(cloud, 12, 0, folder / "progress")

    undisturbed = fit(tmp_path / "undisturbed")
    module, name = (minibatch, "_is_settled") if way == "minibatch" else (lloyd, "_save")
    whole, calls = getattr(module, name), []

    def killed(*arguments):
        calls.append(1)
        result = whole(*arguments)
        if len(calls) == stop:
            raise KeyboardInterrupt
        return result

    with monkeypatch.context() as patch:
        patch.setattr(module, name, killed)
        with pytest.raises(KeyboardInterrupt):
            fit(tmp_path)
    assert (tmp_path / "progress").exists()
    assert len(calls) == stop
    torch.testing.assert_close(fit(tmp_path).centroids, undisturbed.centroids, atol=0, rtol=0)


@pytest.mark.parametrize("way", ["minibatch", "lloyd"])
def test_a_fit_that_had_ended_before_its_model_was_saved_does_nothing_again(heaps, way, tmp_path, monkeypatch):
    def fit():
        if way == "lloyd":
            return by_lloyd(heaps, 12, tmp_path, epochs=200, tolerance=0.01)
        return minibatch.fit(heaps, 12, 0, tmp_path / "progress")

    ended = fit()
    for module, name in ((lloyd, "_epoch"), (lloyd, "first_centroids"), (minibatch, "first_centroids")):
        monkeypatch.setattr(module, name, lambda *_: pytest.fail("it began again"))
    torch.testing.assert_close(fit().centroids, ended.centroids, atol=0, rtol=0)


@pytest.mark.parametrize("way", ["minibatch", "lloyd"])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99, None])
def test_damaged_progress_is_told_and_counts_as_none(heaps, way, share, tmp_path, capsys):
    def fit():
        if way == "lloyd":
            return by_lloyd(heaps, 8, tmp_path, epochs=2)
        return minibatch.fit(heaps, 8, 0, tmp_path / "progress")

    undisturbed, progress = fit(), tmp_path / "progress"
    content = progress.read_bytes()
    progress.write_bytes(b"hello" * 50 if share is None else content[: int(share * len(content))])
    capsys.readouterr()
    torch.testing.assert_close(fit().centroids, undisturbed.centroids, atol=0, rtol=0)
    first = capsys.readouterr().out.splitlines()[0]
    assert first.startswith(f"{progress} cannot be read")
    assert first.endswith("k-means begins again")
    assert progress.read_bytes() != b"hello" * 50


@pytest.mark.parametrize("way", ["minibatch", "lloyd"])
def test_progress_of_another_version_is_told_and_counts_as_none(heaps, way, tmp_path, capsys, monkeypatch):
    progress = tmp_path / "progress"
    if way == "lloyd":
        save_file({"centroids": torch.zeros(8, 5)}, progress)
        by_lloyd(heaps, 8, tmp_path, epochs=2)
    else:
        with monkeypatch.context() as patch:
            patch.setattr("sklearn.base.__version__", "0.1")  # what it writes into its pickles
            minibatch.fit(heaps, 8, 0, progress)
        capsys.readouterr()
        minibatch.fit(heaps, 8, 0, progress)
    assert capsys.readouterr().out.startswith(f"{progress} cannot be read")


@pytest.fixture
def commands(repository, monkeypatch):
    """Run a command's script in this process."""

    def run(script, *arguments):
        path = str(repository / "pretrain" / "labels" / script)
        monkeypatch.setattr(sys, "argv", [path, *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(path, run_name="__main__")
        assert ended.value.code == 0

    return run


@pytest.mark.parametrize("way", ["minibatch", "lloyd"])
def test_a_command_killed_before_its_model_is_saved_has_not_lost_its_epochs(
    commands, corpus, way, tmp_path, monkeypatch
):
    if way == "lloyd":
        line = ("learn_kmeans_distributed.py", corpus, "train", tmp_path / "km.safetensors", 6)
    else:
        commands("dump_mfcc_feature.py", corpus, "train", 1, 0, tmp_path)
        line = ("learn_kmeans.py", tmp_path, "train", 1, tmp_path / "km.safetensors", 6)

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(clusters, "save", killed)
        with pytest.raises(KeyboardInterrupt):
            commands(*line)
    monkeypatch.setattr(lloyd, "_epoch", lambda *_: pytest.fail("an epoch was lost"))
    commands(*line)
    assert len(clusters.load(tmp_path / "km.safetensors").centroids) == 6
    assert not list(tmp_path.glob("*.progress*"))


@pytest.mark.parametrize("way", ["minibatch", "lloyd"])
@pytest.mark.parametrize(("num_clusters", "said"), [(0, "must be 1 or more, got 0"), (23, "23 clusters of 20 frames")])
def test_more_clusters_than_frames_are_refused(way, num_clusters, said, tmp_path):
    few = Frames(np.random.default_rng(0).normal(size=(20, 3)))
    with pytest.raises(ValueError, match=said):
        if way == "lloyd":
            by_lloyd(few, num_clusters, tmp_path)
        else:
            minibatch.fit(few, num_clusters, 0, tmp_path / "progress")


def test_no_frame_is_refused():
    with pytest.raises(ValueError, match="no frame to cluster"):
        StoredFrames([])


# ---- several processes ----


@pytest.fixture(scope="module")
def corpus(corpus_of, tmp_path_factory):
    return corpus_of(tmp_path_factory.mktemp("kmeans") / "noise", {"train": [0.3, 0.02, 0.7, 1.1, 0.5]})


def distributed(repository, corpus, km_path, processes, *flags):
    script = repository / "pretrain" / "labels" / "learn_kmeans_distributed.py"
    launcher = (
        [] if processes == 1 else ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    )
    line = [sys.executable, *launcher, script, corpus, "train", km_path, "6", *flags]
    done = subprocess.run([str(word) for word in line], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return clusters.load(km_path)


# 3: uneven parts; 7: two have no utterance
@pytest.mark.parametrize("processes", [3, *(pytest.param(many, marks=pytest.mark.slow) for many in (2, 7))])
def test_any_number_of_processes_finds_what_one_finds(repository, corpus, processes, tmp_path):
    flags = ("--epochs", "8", "--tolerance", "0")
    alone = distributed(repository, corpus, tmp_path / "one.safetensors", 1, *flags)
    together = distributed(repository, corpus, tmp_path / "many.safetensors", processes, *flags)
    torch.testing.assert_close(together.centroids, alone.centroids, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize(
    ("gpus", "launched", "device", "backend"),
    [
        (2, 2, "cuda:1", "cpu:gloo,cuda:nccl"),
        (1, 2, "cpu", "gloo"),
        (0, 2, "cpu", "gloo"),
        (1, None, "cuda:0", None),
    ],
)
def test_processes_take_a_gpu_each_or_none_and_wait_long(monkeypatch, gpus, launched, device, backend):
    begun = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda name, **more: begun.append((name, more)))
    monkeypatch.setattr(torch.distributed, "destroy_process_group", lambda: None)
    for name, value in {"RANK": 1, "LOCAL_RANK": 1, "LOCAL_WORLD_SIZE": launched}.items():
        monkeypatch.setenv(name, str(value)) if launched else monkeypatch.delenv(name, raising=False)
    with joined() as found:
        assert found == device
    assert begun == ([(backend, {"timeout": LONGEST_WAIT})] if backend else [])


def test_the_nearest_of_no_frames_is_nothing():
    labels, distances = Clusters(torch.randn(3, 2)).nearest(torch.zeros(0, 2))
    assert len(labels) == len(distances) == 0

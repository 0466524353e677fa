# SPDX-License-Identifier: Apache-2.0
"""Several processes on CPUs under torchrun learn what one process with as large a batch learns."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from headrace.checkpoint import unpickle
from headrace_stages.progress import training_row

pytestmark = pytest.mark.fairseq


def losses(text):
    return [row["loss"] for line in text.splitlines() if (row := training_row(line))]


def command(trainer, tmp_path, name, processes, **overrides):
    """The command line of a run in so many processes."""
    arguments = trainer.arguments(**{"hydra__run__dir": tmp_path / name, "optimization__max_update": 6} | overrides)
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m"]
    line = [sys.executable, *(launcher if processes > 1 else ["-m"]), "fairseq_cli.hydra_train", *arguments]
    return [*line, "+distributed=cpu_torchrun"] if processes > 1 else line


def train(trainer, tmp_path, name, processes, **overrides):
    """Train in so many processes; (log, last checkpoint)."""
    line = command(trainer, tmp_path, name, processes, **overrides)
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return done.stdout + done.stderr, unpickle.read(tmp_path / name / "checkpoints" / "checkpoint_last.pt")


def same(a, b, tolerance):
    return all(torch.allclose(a["model"][name], b["model"][name], atol=tolerance) for name in a["model"])


@pytest.fixture
def hubert_data(labelled_corpus):
    return {"task__data": labelled_corpus, "task__label_dir": labelled_corpus, "config": "hubert_tiny"}


@pytest.fixture
def hubert(trainer, tmp_path, hubert_data):
    return lambda name, processes, **overrides: train(trainer, tmp_path, name, processes, **(hubert_data | overrides))


@pytest.fixture
def hubert_command(trainer, tmp_path, hubert_data):
    return lambda name, processes, **overrides: command(trainer, tmp_path, name, processes, **(hubert_data | overrides))


@pytest.mark.parametrize("processes", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_hubert_in_many_processes_is_hubert_in_one(hubert, processes):
    log, together = hubert("many", processes)
    alone_log, alone = hubert("one", 1, optimization__update_freq=f"[{processes}]")
    assert losses(log)[:6] == pytest.approx(losses(alone_log)[:6], abs=2e-3)  # fairseq logs three digits
    assert same(together, alone, 1e-4)


@pytest.mark.slow
def test_two_processes_go_on_where_two_were(hubert):
    hubert("run", 2, optimization__max_update=3)
    _, checkpoint = hubert("run", 2)
    assert checkpoint["optimizer_history"][-1]["num_updates"] == 6


@pytest.mark.slow
def test_wav2vec2_trains_in_two_processes(trainer, tmp_path):
    log, _ = train(trainer, tmp_path, "run", 2)
    assert len(losses(log)) >= 6


@pytest.mark.slow
def test_a_run_goes_on_in_another_number_of_processes(hubert):
    hubert("run", 2, optimization__max_update=3)
    log, checkpoint = hubert("run", 1, optimization__update_freq="[2]")
    assert checkpoint["optimizer_history"][-1]["num_updates"] == 6
    assert "goes on with other batches than before" in log


def children(pid):
    """Process ids of what a process started."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.slow
def test_a_killed_rank_ends_the_run_and_the_same_command_goes_on(hubert_command, tmp_path):
    endless = subprocess.Popen(hubert_command("run", 2, optimization__max_update=100_000), cwd=tmp_path)
    last = tmp_path / "run" / "checkpoints" / "checkpoint_last.pt"
    try:
        while not last.exists():
            assert endless.poll() is None, "it ended before its first checkpoint"
            time.sleep(0.1)
        os.kill(children(endless.pid)[1], signal.SIGKILL)
        assert endless.wait(timeout=120) != 0
    finally:
        endless.kill()
    done = unpickle.read(last)["optimizer_history"][-1]["num_updates"]
    assert done >= 1
    again = hubert_command("run", 2, optimization__max_update=done + 3)
    assert subprocess.run(again, cwd=tmp_path, check=False, timeout=300).returncode == 0
    assert unpickle.read(last)["optimizer_history"][-1]["num_updates"] == done + 3

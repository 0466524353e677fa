# SPDX-License-Identifier: Apache-2.0
"""A minute corpus and a way to run ``fairseq-hydra-train`` often: fairseq is imported once and forked for each run."""

from __future__ import annotations

import multiprocessing
import runpy
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml

from headrace.checkpoint import unpickle

SAMPLE_RATE = 16000
RUNNER = Path(__file__).with_name("fairseq_run.py")

# The tiny configurations, made so small that an update takes a few milliseconds.
MINUTE = {
    "dataset.max_tokens": 40000,
    "dataset.num_workers": 0,
    "dataset.validate_interval_updates": 0,
    "dataset.disable_validation": "true",
    "task.min_sample_size": 4000,
    "common.log_interval": 1,
    "common.tensorboard_logdir": "null",
    "checkpoint.save_interval_updates": 1,
    "lr_scheduler.warmup_updates": 2,
    "model.look_ahead": 2,
    "model.look_back": 6,
    "model.conv_feature_layers": "'[(16,10,5),(16,8,8),(16,8,8)]'",
    "model.encoder_layers": 2,
    "model.encoder_embed_dim": 16,
    "model.encoder_ffn_embed_dim": 32,
    "model.encoder_attention_heads": 2,
    "model.conv_pos": 4,
    "model.conv_pos_groups": 2,
    "model.final_dim": 8,
    "model.mask_length": 2,
}
OBJECTIVE = {
    "wav2vec2_tiny": {"model.latent_vars": 8, "model.num_negatives": 5},
    "hubert_tiny": {"task.label_rate": 50.0},
}
NUM_CLUSTERS = 5


def write_corpus(folder: Path, seconds: dict[str, list[float]]) -> Path:
    """Noise under a slow envelope, and the manifests of its splits. Returns the folder of manifests."""
    generator = np.random.default_rng(7)
    (folder / "audio").mkdir(parents=True)
    for split, durations in seconds.items():
        lines = [str(folder / "audio")]
        for i, duration in enumerate(durations):
            samples = generator.standard_normal(int(duration * SAMPLE_RATE))
            samples *= 0.1 * (1 + np.sin(np.linspace(0, 20, len(samples)) + i))
            soundfile.write(folder / "audio" / f"{split}{i}.flac", samples, SAMPLE_RATE)
            lines.append(f"{split}{i}.flac\t{len(samples)}")
        (folder / f"{split}.tsv").write_text("\n".join(lines) + "\n")
    return folder


def write_labels(folder: Path, seed: int = 3, rate: int = 50) -> Path:
    """Labels of NUM_CLUSTERS clusters drawn for the manifests of a folder; beside them. Returns the folder."""
    generator = np.random.default_rng(seed)
    for manifest in folder.glob("*.tsv"):
        counts = [int(line.split("\t")[1]) * rate // SAMPLE_RATE for line in manifest.read_text().splitlines()[1:]]
        lines = [" ".join(map(str, generator.integers(NUM_CLUSTERS, size=count))) for count in counts]
        manifest.with_suffix(".km").write_text("\n".join(lines) + "\n")
    (folder / "dict.km.txt").write_text("".join(f"{number} 1\n" for number in range(NUM_CLUSTERS)))
    return folder


@pytest.fixture(scope="session")
def corpus_of():
    """Writes a corpus: (folder, {split: durations in seconds}) -> folder."""
    return write_corpus


@pytest.fixture(scope="session")
def minute_corpus(tmp_path_factory) -> Path:
    """24 utterances of 0.5 to 1 s, 4 for validation: about 9 batches an epoch."""
    train = list(np.linspace(0.5, 1.0, 24))
    return write_corpus(tmp_path_factory.mktemp("corpus") / "noise", {"train": train, "valid": [0.6, 0.7, 0.8, 0.9]})


@pytest.fixture(scope="session")
def label_corpus(corpus_of, tmp_path_factory) -> Path:
    """Five utterances to label, one of them too short for a frame of the convolutions, and one for validation."""
    durations = {"train": [0.3, 0.02, 0.7, 1.1, 0.5], "valid": [0.6]}
    return corpus_of(tmp_path_factory.mktemp("labels") / "noise", durations)


@pytest.fixture(scope="session")
def labels_of():
    """Writes labels: (folder, seed, rate) -> folder."""
    return write_labels


@pytest.fixture
def labelled_corpus(minute_corpus, tmp_path) -> Path:
    """The minute corpus's manifests with labels, in a folder of its own."""
    folder = tmp_path / "labelled"
    folder.mkdir()
    for manifest in minute_corpus.glob("*.tsv"):
        shutil.copy(manifest, folder)
    return write_labels(folder)


@dataclass
class Training:
    """A started ``fairseq-hydra-train``."""

    process: multiprocessing.Process
    folder: Path
    run_dir: Path
    log_path: Path

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    @property
    def last_checkpoint(self) -> Path:
        return self.run_dir / "checkpoints" / "checkpoint_last.pt"

    def wait(self, timeout_seconds: float = 300) -> int:
        """The exit code."""
        self.process.join(timeout_seconds)
        assert self.process.exitcode is not None, f"still running after {timeout_seconds} s:\n{self.log[-2000:]}"
        return self.process.exitcode

    def finish(self) -> dict:
        """Wait for success; the last checkpoint's content."""
        assert self.wait() == 0, self.log[-3000:]
        return unpickle.read(self.last_checkpoint)


@dataclass
class Trainer:
    """Starts runs with the minute corpus and configuration."""

    configs: Path
    data: Path
    folder: Path
    started: list[Training] = field(default_factory=list)

    def arguments(self, config: str = "wav2vec2_tiny", **overrides: object) -> list[str]:
        """Of the command; overrides have __ for the dot, and "recipe" as it is."""
        values = {"task.data": self.data, **MINUTE, **OBJECTIVE[config]}
        values |= {key.replace("__", "."): value for key, value in overrides.items()}
        arguments = ["--config-dir", str(self.configs), "--config-name", config]
        return arguments + [f"{key}={value}" for key, value in values.items() if value is not None]

    def start(self, name: str = "run", max_file_bytes: int | None = None, **overrides: object) -> Training:
        """Start or go on with run ``name``; overrides as in ``arguments``."""
        run_dir = self.folder / name
        arguments = self.arguments(**{"hydra__run__dir": run_dir} | overrides)
        log_path = self.folder / f"{name}.log"
        parameters = {
            "ARGUMENTS": arguments,
            "FOLDER": str(self.folder),
            "LOG": str(log_path),
            "MAX_FILE_BYTES": max_file_bytes,
        }
        process = _forkserver().Process(target=runpy.run_path, args=(str(RUNNER), parameters))
        process.start()
        self.started.append(Training(process, self.folder, run_dir, log_path))
        return self.started[-1]


@pytest.fixture(scope="session")
def make_trainer(repository, minute_corpus):
    """A Trainer for a folder; what still runs at the end is ended."""
    trainers = []

    def make(folder: Path, data: Path = minute_corpus) -> Trainer:
        trainers.append(Trainer(repository / "pretrain" / "configs", data, folder))
        return trainers[-1]

    yield make
    for training in (training for trainer in trainers for training in trainer.started):
        training.process.kill()
        training.process.join()


@pytest.fixture
def trainer(make_trainer, tmp_path) -> Trainer:
    """Starts training runs in a folder of its own."""
    return make_trainer(tmp_path)


def _forkserver():
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["fairseq_cli.hydra_train"])
    return context


@pytest.fixture
def hubert_plan(tmp_path):
    """Two short iterations for hubert.py."""
    path = tmp_path / "plan.yaml"
    two = [{"clusters": NUM_CLUSTERS, "updates": 4}, {"layer": 1, "clusters": 6, "updates": 4}]
    path.write_text(yaml.safe_dump({"config": "hubert_tiny", "iterations": two}))
    return path


@pytest.fixture
def hubert_command(repository, trainer, hubert_plan, minute_corpus, tmp_path):
    """hubert.py's command line, for a run called ``name``."""
    own = ("task.data", "task.label_rate")
    values = [word for word in trainer.arguments(config="hubert_tiny")[4:] if not word.startswith(own)]
    values += ["dataset.max_tokens=80000"]

    def line(name="run", *flags):
        script = str(repository / "pretrain" / "hubert.py")
        where = ["--data", str(minute_corpus), "--dest", str(tmp_path / name), "--threads", "1"]
        return [sys.executable, script, str(hubert_plan), *where, *values, *flags]

    return line

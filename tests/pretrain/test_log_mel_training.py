# SPDX-License-Identifier: Apache-2.0
"""Whole runs of fairseq-hydra-train on log-mel frames: both objectives, with statistics that are measured once."""

import subprocess
import sys

import pytest
import torch

from encoders import LOG_MEL, small_encoder
from headrace import checkpoint
from headrace.checkpoint import from_fairseq, unpickle
from headrace.export import export
from headrace_stages.progress import training_row

pytestmark = pytest.mark.fairseq

ON_LOG_MEL = {
    "model__block": "conformer",
    "model__mixer": "chunked",
    "model__conv_kernel": 5,
    "model__hop": 2,
    "model__frontend": "log_mel",
    "model__num_mels": LOG_MEL["num_mels"],
    "model__mel_channels": "[6,4]",
    "optimization__max_update": 3,
}
MEASURED = "log-mel statistics of "


@pytest.fixture
def settings(labelled_corpus):
    """Of a run on log-mel frames."""

    def of(config="wav2vec2_tiny", **overrides):
        data = {"task__data": labelled_corpus, "task__label_dir": labelled_corpus} if config == "hubert_tiny" else {}
        return {"config": config, **ON_LOG_MEL, **data, **overrides}

    return of


@pytest.fixture
def pretrain(trainer, settings):
    """Trains to the end."""

    def run(name="run", **overrides):
        training = trainer.start(name, **settings(**overrides))
        training.finish()
        return training

    return run


@pytest.fixture(scope="module")
def measured(minute_corpus):
    """The statistics of the minute corpus, by the tested module (test_mel_statistics.py)."""
    mel_statistics = pytest.importorskip("headrace_fairseq.mel_statistics", reason="fairseq is not installed")
    encoder = small_encoder(torch.float32, mixer="full", **LOG_MEL)
    mel_statistics.measure(encoder, minute_corpus, "train", 1)
    return statistics_of(encoder)


def statistics_of(encoder):
    return {name: tensor for name, tensor in encoder.state_dict().items() if "log_mel" in name}


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def losses(text):
    return [row["loss"] for line in text.splitlines() if (row := training_row(line))]


@pytest.mark.parametrize("config", ["wav2vec2_tiny", "hubert_tiny"])
def test_it_trains_on_measured_statistics_that_its_checkpoint_and_its_folder_keep(pretrain, measured, tmp_path, config):
    training = pretrain(config=config)
    assert training.log.count(MEASURED + "24 of 24 utterances of train") == 1
    encoder = from_fairseq(training.last_checkpoint)
    assert (encoder.frontend.stride_samples, encoder.config.mel_channels) == (640, [6, 4])
    assert same(statistics_of(encoder), measured)
    assert all(state.isfinite().all() for state in encoder(torch.randn(1, 8000)).hidden_states)
    export(training.last_checkpoint, tmp_path / "folder")
    assert same(checkpoint.load(tmp_path / "folder").state_dict(), encoder.state_dict())


def test_nothing_is_measured_again_where_weights_are_loaded(pretrain, trainer, measured, corpus_of):
    first = pretrain()
    again = pretrain(optimization__max_update=5)  # goes on
    assert again.log.count(MEASURED) == 1  # of the first start: the log goes on too
    other = corpus_of(trainer.folder / "other", {"train": [0.5] * 12})
    tuned = pretrain("tuned", task__data=other, checkpoint__finetune_from_model=first.last_checkpoint)
    more = {"checkpoint__reset_dataloader": "true", "optimization__max_update": 5}
    named = pretrain("named", task__data=other, checkpoint__restore_file=first.last_checkpoint, **more)
    for training in (again, tuned, named):
        assert same(statistics_of(from_fairseq(training.last_checkpoint)), measured)
    assert MEASURED not in tuned.log + named.log


def test_bf16_has_the_same_statistics_and_learns_nearly_the_same(pretrain, measured):
    half, single = (pretrain(f"bf16-{on}", common__bf16=on, optimization__max_update=6) for on in ("true", "false"))
    assert same(statistics_of(from_fairseq(half.last_checkpoint)), measured)
    assert losses(half.log) == pytest.approx(losses(single.log), rel=0.03)


def test_a_checkpoint_of_another_front_end_is_refused_in_one_line(pretrain, trainer, settings):
    first = pretrain(model__frontend="waveform", optimization__max_update=1)
    training = trainer.start("tuned", **settings(checkpoint__finetune_from_model=first.last_checkpoint))
    assert training.wait() == 2
    last_line = training.log.rstrip().splitlines()[-1]
    assert "it lacks feature_extractor" in last_line and "frontend, num_mels, mel_channels" in last_line


@pytest.mark.parametrize("config", ["wav2vec2_tiny", "hubert_tiny"])
def test_the_untrained_twin_has_the_statistics_of_the_pretraining(
    repository, trainer, pretrain, settings, minute_corpus, tmp_path, config
):
    training = pretrain(config=config)
    expected = export(training.last_checkpoint, tmp_path / "exported", untrained_seed=7).encoder
    assert same(statistics_of(expected), statistics_of(from_fairseq(training.last_checkpoint)))
    values = [word for word in trainer.arguments(**settings(config))[4:] if word.startswith("model.")]
    line = [sys.executable, str(repository / "pretrain" / "untrained.py"), str(tmp_path / "twin"), config, *values]
    line += ["--seed", "7", "--data", str(minute_corpus)]
    done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert same(checkpoint.load(tmp_path / "twin").state_dict(), expected.state_dict())


@pytest.mark.slow
def test_two_processes_train_on_the_same_statistics_as_one(trainer, settings, measured, tmp_path):
    def run(name, processes, *more):
        arguments = trainer.arguments(**settings("hubert_tiny"), hydra__run__dir=tmp_path / name)
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        command = [sys.executable, *(launcher if processes > 1 else []), "-m", "fairseq_cli.hydra_train", *arguments]
        done = subprocess.run([*command, *more], cwd=tmp_path, capture_output=True, text=True, timeout=600, check=False)
        assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
        return done.stdout + done.stderr, unpickle.read(tmp_path / name / "checkpoints" / "checkpoint_last.pt")

    log, together = run("many", 2, "+distributed=cpu_torchrun")
    alone_log, alone = run("one", 1, "optimization.update_freq=[2]")
    assert log.count(MEASURED) == 1  # the first process measures, and the other is told
    names = [name for name in alone["model"] if "log_mel" in name]
    assert len(names) == 2 and all(torch.equal(together["model"][name], alone["model"][name]) for name in names)
    assert losses(log) == pytest.approx(losses(alone_log), abs=2e-3)  # with other statistics in one they would not be

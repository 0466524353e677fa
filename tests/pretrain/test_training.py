# SPDX-License-Identifier: Apache-2.0
"""Whole runs of fairseq-hydra-train: reproducible, killable, on from where they were, sa first and llsa after."""

import json
import random
import re
import shutil
import time

import numpy as np
import pytest
import soundfile
import torch

from headrace.checkpoint import from_fairseq

pytestmark = pytest.mark.fairseq

UPDATES = 14  # more than an epoch of the minute corpus


def same_weights(a, b):
    return a["model"].keys() == b["model"].keys() and all(torch.equal(a["model"][k], b["model"][k]) for k in a["model"])


def num_updates(checkpoint):
    return checkpoint["optimizer_history"][-1]["num_updates"]


@pytest.fixture(scope="module")
def undisturbed(make_trainer, tmp_path_factory):
    """A run that nobody disturbed."""
    training = make_trainer(tmp_path_factory.mktemp("undisturbed")).start(
        optimization__max_update=UPDATES, dataset__disable_validation="false"
    )
    training.finish()
    return training


def test_same_seed_gives_the_same_run_in_any_number_of_workers(undisturbed, trainer):
    other = trainer.start(optimization__max_update=UPDATES, dataset__disable_validation="false", dataset__num_workers=2)
    first, second = undisturbed.finish(), other.finish()
    assert num_updates(first) == num_updates(second) == UPDATES
    assert same_weights(first, second)
    assert first["extra_state"]["val_loss"] == second["extra_state"]["val_loss"]


def test_another_seed_gives_another_run(undisturbed, trainer):
    other = trainer.start(optimization__max_update=UPDATES, common__seed=2)
    assert not same_weights(undisturbed.finish(), other.finish())


def kill_often(trainer, kills, longest_wait_seconds, **overrides):
    """Train to the end under SIGKILL at random moments after the first checkpoint; the final checkpoint."""
    draw = random.Random(1)
    reached = 0
    for _ in range(kills):
        training = trainer.start(**overrides)
        started = time.monotonic()
        while (
            not training.last_checkpoint.exists() and training.process.is_alive() and time.monotonic() < started + 120
        ):
            time.sleep(0.02)
        training.process.join(draw.uniform(0, longest_wait_seconds))
        training.process.kill()
        training.process.join()
        assert training.process.exitcode in (0, -9), training.log[-3000:]
        updates = num_updates(torch.load(training.last_checkpoint, weights_only=True))
        assert updates >= reached
        reached = updates
    return trainer.start(**overrides).finish()


def test_killed_twice_it_ends_where_the_undisturbed_run_ends(undisturbed, trainer):
    final = kill_often(
        trainer, 2, 3.0, optimization__max_update=UPDATES, dataset__disable_validation="false", dataset__num_workers=1
    )
    assert num_updates(final) == UPDATES
    assert same_weights(final, undisturbed.finish())


@pytest.mark.slow
def test_killed_twenty_times_it_ends_where_the_undisturbed_run_ends(trainer):
    settings = {"optimization__max_update": 400, "dataset__disable_validation": "false"}
    final = kill_often(trainer, 20, 6.0, **settings)
    assert num_updates(final) == 400
    assert same_weights(final, trainer.start("undisturbed", **settings).finish())


def test_full_disk_gives_one_line_and_leaves_the_last_whole_checkpoint(trainer):
    trainer.start(optimization__max_update=3).finish()
    whole = (trainer.folder / "run/checkpoints/checkpoint_last.pt").read_bytes()
    training = trainer.start(optimization__max_update=6, max_file_bytes=len(whole) // 2)
    assert training.wait() == 2
    last_line = training.log.rstrip().splitlines()[-1]
    assert "checkpoint_1_4.pt was not saved: File too large" in last_line
    assert "checkpoint_last.pt is whole" in last_line
    assert "Traceback" not in training.log
    assert training.last_checkpoint.read_bytes() == whole
    assert not list(training.last_checkpoint.parent.glob("*.tmp"))
    assert num_updates(trainer.start(optimization__max_update=6).finish()) == 6


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (
            {"model__mixer": "typo"},
            "mixer must be one of full, masked, sa, llsa, chunked, deformable, none, summary, got 'typo'",
        ),
        ({"model__look_ahead": -1}, "look_ahead must be a whole number of frames >= 0, got -1"),
        ({"model__attention_dropout": 0.1}, "attention_dropout must be 0 for llsa"),
        ({"task__data": "nowhere"}, "task.data=nowhere is not a folder"),
        ({"task__min_sample_size": 90000}, "there is nothing to train on"),
        ({"checkpoint__finetune_from_model": "nowhere.pt"}, "checkpoint.finetune_from_model=nowhere.pt does not exist"),
    ],
    ids=["mixer", "look-ahead", "attention dropout", "data", "nothing long enough", "first checkpoint"],
)
def test_callers_mistake_gives_one_line_before_the_first_update(trainer, overrides, line):
    training = trainer.start(**overrides)
    assert training.wait() == 2
    assert line in training.log.rstrip().splitlines()[-1]
    assert "Traceback" not in training.log


def test_an_earlier_run_of_other_data_or_settings_is_not_gone_on_with(trainer, minute_corpus, corpus_of):
    first = trainer.start(optimization__max_update=2)
    first.finish()
    whole = first.last_checkpoint.read_bytes()
    other = corpus_of(trainer.folder / "other", {"train": [0.5] * 12})
    for changes, told in (
        ({"task__data": other}, f"task.data is {minute_corpus} there, {other} here"),
        ({"criterion__loss_weights": "[0.1,10]"}, "criterion.loss_weights is [0.5, 1.0] there, [0.1, 10.0] here"),
    ):
        training = trainer.start(optimization__max_update=4, **changes)
        assert training.wait() == 2
        last_line = training.log.rstrip().splitlines()[-1]
        assert last_line.startswith("headrace_fairseq: ")
        assert told in last_line
        assert "Traceback" not in training.log
    assert first.last_checkpoint.read_bytes() == whole
    moved = trainer.folder / "moved (copy), é=1 & #2"  # quoted as pretrain/README.md says
    shutil.copytree(minute_corpus, moved)
    (moved / "train.tsv").write_text((moved / "train.tsv").read_text().replace(str(minute_corpus), str(moved)))
    assert num_updates(trainer.start(optimization__max_update=4, task__data=f'"{moved}"').finish()) == 4
    training = trainer.start(optimization__max_update=6, task__data=other, checkpoint__reset_dataloader="true")
    assert num_updates(training.finish()) == 6


def test_one_bad_file_that_is_a_batch_of_its_own_is_left_out(trainer, corpus_of):
    folder = corpus_of(trainer.folder / "corpus", {"train": [1.0] + [0.5] * 6})
    soundfile.write(folder / "audio" / "train0.flac", np.zeros(160), 16000)
    training = trainer.start(task__data=folder, dataset__max_tokens=16000, optimization__max_update=6)
    assert num_updates(training.finish()) == 6
    assert training.log.count("/train0.flac is left out") == 1


@pytest.mark.parametrize("num_workers", [0, 2])
def test_too_many_bad_files_end_the_run_with_one_line(trainer, corpus_of, num_workers):
    folder = corpus_of(trainer.folder / "corpus", {"train": [0.5] * 24})
    for i in (3, 17):
        samples, rate = soundfile.read(folder / "audio" / f"train{i}.flac", dtype="float32")
        soundfile.write(folder / "audio" / f"train{i}.flac", samples[:160], rate)
    training = trainer.start(task__data=folder, dataset__num_workers=num_workers, optimization__max_update=200)
    assert training.wait() == 2
    assert re.search(
        r"2 of 24 utterances are bad, more than 1 %, the last: .*/train(3|17)\.flac", training.log.splitlines()[-1]
    )
    assert training.log.count("/train3.flac is left out: 160 samples, at least") == 1
    assert "Traceback" not in training.log


@pytest.mark.parametrize(
    "mixer",
    [
        {"model__mixer": "full"},
        {"model__mixer": "full", "model__positions": "conv", "model__extractor_mode": "default"},
        {"model__mixer": "masked"},
        {"recipe": "sa", "model__look_ahead": "[0,3]"},
        {"recipe": "llsa_hop8"},
    ],
    ids=["full", "full as in fairseq", "masked", "sa", "llsa hop 8"],
)
def test_every_mixer_trains_and_the_library_reads_its_checkpoint(trainer, mixer):
    training = trainer.start(optimization__max_update=2, **mixer)
    training.finish()
    out = from_fairseq(training.last_checkpoint)(torch.randn(1, 8000))
    assert all(state.isfinite().all() for state in out.hidden_states)


def test_sa_first_llsa_after(trainer):
    where = {"hydra__run__dir": None, "optimization__max_update": 3}  # the configuration's own folders
    trainer.start("sa", recipe="sa", **where).process.join()
    llsa = trainer.start("llsa", recipe="sa_then_llsa", lr_scheduler__warmup_updates=1000, **where)
    assert llsa.wait() == 0, llsa.log[-3000:]
    folder = trainer.folder / "runs" / "wav2vec2_tiny"
    first = from_fairseq(folder / "sa/sa-ahead2-hop1-seed1/checkpoints/checkpoint_last.pt")
    second = from_fairseq(folder / "sa_then_llsa/llsa-ahead2-hop1-seed1/checkpoints/checkpoint_last.pt")
    assert (first.config.mixer, second.config.mixer) == ("sa", "llsa")
    for name, tensor in second.state_dict().items():
        torch.testing.assert_close(tensor, first.state_dict()[name], atol=1e-4, rtol=0)  # three tiny steps away


def test_log_says_how_far_how_good_and_how_long(undisturbed):
    lines = [json.loads(text) for text in re.findall(r"\[train_inner\]\[INFO\] - (\{.*\})", undisturbed.log)]
    assert lines[-1].keys() >= {"loss", "loss_0", "accuracy", "code_perplexity", "num_updates", "wall"}
    assert "update 10 of 14 (71%)" in undisturbed.log

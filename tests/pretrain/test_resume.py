# SPDX-License-Identifier: Apache-2.0
"""A run goes on from its own checkpoints, and from no other experiment's in silence."""

import shutil

import pytest
import torch

pytest.importorskip("fairseq", reason="fairseq is not installed")
from omegaconf import OmegaConf

from headrace_fairseq import resume

ROWS = "a.flac\t16000\nb.flac\t20000\n"
NO_RESET = dict.fromkeys(["reset_dataloader", "reset_optimizer", "reset_lr_scheduler", "reset_meters"], False)
VALUES = {
    "common": {"seed": 1, "fp16": False, "log_interval": 50, "cpu": True},
    "task": {"_name": "audio_pretraining", "normalize": False, "max_sample_size": 100000},
    "dataset": {"train_subset": "train", "valid_subset": "valid", "max_tokens": 1000, "num_workers": 1},
    "distributed_training": {"distributed_world_size": 1},
    "criterion": {"_name": "wav2vec", "loss_weights": [0.1, 10.0], "log_keys": ["temp"]},
    "optimization": {"max_update": 10, "lr": [0.0005], "update_freq": [1], "clip_norm": 0.0},
    "optimizer": {"_name": "adam", "weight_decay": 0.01, "lr": "${optimization.lr}"},
    "lr_scheduler": {"warmup_updates": 2, "total_num_update": "${optimization.max_update}"},
    "model": {"mixer": "llsa", "look_back": 60, "mask_prob": 0.5, "max_update": "${optimization.max_update}"},
    "checkpoint": NO_RESET
    | {"restore_file": "checkpoint_last.pt", "continue_once": None, "finetune_from_model": None}
    | {"optimizer_overrides": "{}", "save_interval_updates": 100},
}


@pytest.fixture
def folder(tmp_path):
    write_manifest(tmp_path / "data")
    (tmp_path / "checkpoints").mkdir()
    return tmp_path


def write_manifest(data, root="/audio", rows=ROWS):
    data.mkdir(exist_ok=True)
    (data / "train.tsv").write_text(f"{root}\n{rows}")


def run(folder, changes=None):
    """A run's configuration, with changes by dotted name."""
    cfg = OmegaConf.create(VALUES)
    cfg.task.data, cfg.checkpoint.save_dir = str(folder / "data"), str(folder / "checkpoints")
    for name, value in (changes or {}).items():
        OmegaConf.update(cfg, name, value)
    return cfg


def save(folder, cfg, name="checkpoint_last.pt", with_note=True):
    """What fairseq stores of a run, as far as it matters here."""
    content = {"cfg": OmegaConf.to_container(cfg, resolve=True), "extra_state": resume.note(cfg) if with_note else {}}
    torch.save(content | {"model": {"weight": torch.zeros(3)}}, folder / "checkpoints" / name)


def test_the_same_command_goes_on(folder, caplog):
    resume.check(run(folder), "")  # nothing there yet
    save(folder, run(folder))
    resume.check(run(folder), "")
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("common.seed", 2, "common.seed is 1 there, 2 here."),
        ("common.fp16", True, "or checkpoint.reset_optimizer=true;"),
        ("task.normalize", True, "task.normalize is False there, True here. To go on with it give the same value or"),
        ("task.max_sample_size", None, "100000 there, None here"),
        ("dataset.train_subset", "train_100", "dataset.train_subset is train there, train_100 here"),
        ("criterion.loss_weights", [0.5, 1.0], "[0.1, 10.0] there, [0.5, 1.0] here"),
        ("optimization.lr", [0.001], "optimization.lr is [0.0005] there, [0.001] here. "),
        ("optimization.clip_norm", 5.0, "optimization.clip_norm is 0.0 there, 5.0 here."),
        ("optimizer.weight_decay", 0.0, "optimizer.weight_decay is 0.01 there"),
        ("lr_scheduler.warmup_updates", 9, "lr_scheduler.warmup_updates is 2 there, 9 here."),
        ("model.mixer", "sa", "model.mixer is llsa there, sa here. To go on with it give the same value; to begin"),
        ("model.look_back", None, "model.look_back is 60 there, None here"),
        ("model.mask_prob", 0.65, "model.mask_prob is 0.5 there, 0.65 here"),
    ],
)
def test_another_experiments_checkpoint_is_refused_in_one_line(folder, name, value, told):
    save(folder, run(folder))
    with pytest.raises(ValueError, match=r"another experiment's.*another hydra.run.dir.*or delete") as error:
        resume.check(run(folder, {name: value}), "")
    assert told in str(error.value)
    assert str(folder / "checkpoints" / "checkpoint_last.pt") in str(error.value)
    assert "\n" not in str(error.value)


def test_the_first_difference_is_named_and_the_others_are_counted(folder):
    save(folder, run(folder))
    with pytest.raises(ValueError, match=r"common.seed is 1 there, 2 here \(2 more differ\)"):
        resume.check(run(folder, {"common.seed": 2, "model.mixer": "sa", "optimization.lr": [1.0]}), "")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("optimization.max_update", 20),
        ("checkpoint.save_interval_updates", 7),
        ("common.log_interval", 1),
        ("common.cpu", False),
        ("criterion.log_keys", []),
        ("dataset.num_workers", 6),
        ("dataset.valid_subset", "dev"),
        ("model.of_a_later_version", 3),
    ],
)
def test_what_people_change_while_a_run_goes_on_may_change(folder, caplog, name, value):
    save(folder, run(folder))
    resume.check(run(folder, {name: value}), "")
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("optimization.update_freq", [8], "optimization.update_freq was [1], is [8]"),
        ("distributed_training.distributed_world_size", 8, "distributed_world_size was 1, is 8"),
        ("dataset.max_tokens", 500, "dataset.max_tokens was 1000, is 500"),
    ],
)
def test_other_batches_are_warned_of(folder, caplog, name, value, told):
    save(folder, run(folder))
    resume.check(run(folder, {name: value}), "")
    assert len(caplog.messages) == 1
    assert told in caplog.messages[0]


def test_another_corpus_is_refused(folder):
    save(folder, run(folder))
    write_manifest(folder / "other", rows="c.flac\t16000\n")
    with pytest.raises(
        ValueError, match=r"task.data is .*/data there, .*/other here.*checkpoint.reset_dataloader=true"
    ):
        resume.check(run(folder, {"task.data": str(folder / "other")}), "")


def test_a_manifest_made_again_with_other_rows_is_refused(folder):
    save(folder, run(folder))
    write_manifest(folder / "data", rows=ROWS.splitlines(keepends=True)[0])
    with pytest.raises(ValueError, match=r"rows of .*/data/train.tsv is sha256 \w{8} there, sha256 \w{8} here"):
        resume.check(run(folder), "")
    resume.check(run(folder, {"checkpoint.reset_dataloader": True}), "")


@pytest.mark.parametrize("with_note", [True, False], ids=["", "older checkpoint"])
def test_the_same_corpus_elsewhere_is_the_same(folder, with_note):
    save(folder, run(folder), with_note=with_note)
    write_manifest(folder / "moved", root="/mnt/audio")
    resume.check(run(folder, {"task.data": str(folder / "moved")}), "")


def test_a_corpus_whose_folder_is_gone_is_told_by_what_the_checkpoint_noted(folder):
    save(folder, run(folder))
    save(folder, run(folder), "checkpoint_old.pt", with_note=False)
    shutil.move(folder / "data", folder / "moved")
    resume.check(run(folder, {"task.data": str(folder / "moved")}), "")
    shutil.move(folder / "checkpoints" / "checkpoint_old.pt", folder / "checkpoints" / "checkpoint_last.pt")
    with pytest.raises(ValueError, match=r"task\.data is"):
        resume.check(run(folder, {"task.data": str(folder / "moved")}), "")


def test_data_without_a_manifest_are_told_by_their_folder(folder):
    (folder / "data" / "train.tsv").unlink()  # binarized
    save(folder, run(folder))
    resume.check(run(folder), "")
    with pytest.raises(ValueError, match=r"task\.data is"):
        resume.check(run(folder, {"task.data": str(folder / "other")}), "")


@pytest.mark.parametrize(
    ("options", "may_differ", "may_not"),
    [
        ({"reset_dataloader": True}, {"task.normalize": True, "common.seed": 2}, {"optimization.lr": [1.0]}),
        ({"reset_lr_scheduler": True}, {"optimization.lr": [1.0]}, {"optimizer.weight_decay": 0.0}),
        ({"optimizer_overrides": "{'lr': 1}"}, {"optimizer.weight_decay": 0.0}, {"lr_scheduler.warmup_updates": 9}),
        (
            {"reset_optimizer": True},
            {"common.fp16": True, "criterion.loss_weights": [1.0, 1.0], "optimizer.weight_decay": 0.0},
            {"common.seed": 2},
        ),
        ({"reset_meters": True}, {}, {"optimization.lr": [1.0]}),
        ({"reset_optimizer": True, "reset_dataloader": True}, {"model.mixer": "sa", "common.seed": 2}, None),
    ],
    ids=lambda value: next(iter(value), "nothing") if value else "all",
)
def test_what_fairseqs_options_leave_unread_may_differ(folder, options, may_differ, may_not):
    save(folder, run(folder))
    options = {f"checkpoint.{name}": value for name, value in options.items()}
    resume.check(run(folder, options | may_differ), "")
    if may_not:
        with pytest.raises(ValueError, match="another experiment's"):
            resume.check(run(folder, options | may_not), "")


@pytest.mark.parametrize("option", ["restore_file", "continue_once"])
def test_a_checkpoint_that_somebody_names_is_only_warned_of(folder, caplog, option):
    save(folder, run(folder), "first.pt")
    named = {f"checkpoint.{option}": str(folder / "checkpoints" / "first.pt")}
    resume.check(run(folder, named), "")
    assert caplog.messages == []
    resume.check(run(folder, named | {"model.mixer": "sa"}), "")
    assert "model.mixer is llsa there, sa here" in caplog.messages[0]


def test_weights_to_start_from_may_be_of_any_experiment(folder, caplog):
    save(folder, run(folder), "first.pt")
    first = {"checkpoint.finetune_from_model": str(folder / "checkpoints" / "first.pt")}
    resume.check(run(folder, first | {"model.mixer": "sa", "common.seed": 2}), "")
    assert caplog.messages == []


def test_a_run_that_has_begun_does_not_start_from_other_weights(folder):
    first = {"checkpoint.finetune_from_model": "first.pt"}
    save(folder, run(folder))
    with pytest.raises(ValueError, match=r"checkpoint.finetune_from_model is None there, first.pt here"):
        resume.check(run(folder, first), "")
    save(folder, run(folder, first))
    resume.check(run(folder, first), "")  # the first weights may be gone by now
    resume.check(run(folder), "")
    with pytest.raises(ValueError, match=r"first.pt there, second.pt here"):
        resume.check(run(folder, {"checkpoint.finetune_from_model": "second.pt"}), "")


@pytest.mark.parametrize("option", ["restore_file", "continue_once", "finetune_from_model"])
def test_a_named_checkpoint_that_does_not_exist_is_refused(folder, option):
    with pytest.raises(
        ValueError, match=rf"checkpoint.{option}=nowhere.pt does not exist: give the checkpoint_last.pt"
    ):
        resume.check(run(folder, {f"checkpoint.{option}": "nowhere.pt"}), "")


def test_fairseqs_suffix_belongs_to_the_name(folder):
    save(folder, run(folder), "checkpoint_last-shard0.pt")
    resume.check(run(folder, {"model.mixer": "sa"}), "")
    with pytest.raises(ValueError, match=r"checkpoint_last-shard0.pt is another experiment's"):
        resume.check(run(folder, {"model.mixer": "sa"}), "-shard0")


def test_half_a_checkpoint_is_named(folder):
    save(folder, run(folder))
    path = folder / "checkpoints" / "checkpoint_last.pt"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"checkpoint_last.pt cannot be read \(.*\): copy another checkpoint") as error:
        resume.check(run(folder), "")
    assert "\n" not in str(error.value)


def test_a_named_checkpoint_of_an_older_format_is_left_to_fairseq(folder):
    path = folder / "old.pt"
    torch.save({"args": None, "model": {}}, path, _use_new_zipfile_serialization=False)
    resume.check(run(folder, {"checkpoint.restore_file": str(path)}), "")
    torch.save({"model": {}}, path)
    resume.check(run(folder, {"checkpoint.restore_file": str(path)}), "")

# SPDX-License-Identifier: Apache-2.0
"""The configurations compose as fairseq-hydra-train composes them, and say what their names promise."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("fairseq", reason="fairseq is not installed")
from fairseq.dataclass.configs import FairseqConfig
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from headrace import EncoderConfig
from headrace.checkpoint import unpickle
from headrace_fairseq.config import HeadraceHubertConfig, HeadraceWav2Vec2Config

RECIPES = {
    "llsa": ("llsa", 1),
    "llsa_hop8": ("llsa", 8),
    "sa": ("sa", 1),
    "sa_then_llsa": ("llsa", 1),
}
CONFIGS = {"wav2vec2": HeadraceWav2Vec2Config, "hubert": HeadraceHubertConfig}
NAMES = tuple(f"{model}_{size}" for model in CONFIGS for size in ("base_librispeech", "tiny"))
HUBERT = ["task.label_dir=somewhere", "task.label_rate=100"]
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:hydra", "ignore:[\\s\\S]*validated against ConfigStore")


def composed(repository, name, *overrides):
    for other in NAMES:  # as in the command, where one name only has fairseq's schema
        ConfigStore.instance().repo.pop(f"{other}.yaml", None)
    ConfigStore.instance().store(name=name, node=FairseqConfig)
    with initialize_config_dir(str(repository / "pretrain" / "configs"), version_base="1.1"):
        return compose(name, ["task.data=somewhere", *(HUBERT if name.startswith("hubert") else []), *overrides])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("recipe", RECIPES)
def test_recipes_fit_both_sizes(repository, name, recipe):
    cfg = composed(repository, name, f"recipe={recipe}")
    assert (cfg.model.mixer, cfg.model.hop) == RECIPES[recipe]
    assert cfg.dataset.required_batch_size_multiple == 1
    goes_on = OmegaConf.to_container(cfg.checkpoint)["finetune_from_model"] is not None
    assert goes_on == (recipe == "sa_then_llsa")


@pytest.mark.parametrize("name", NAMES)
def test_every_field_is_one_that_the_model_has_and_streaming_ones_can_be_overridden(repository, name):
    cfg = composed(
        repository, name, "model.mixer=full", "model.look_ahead=3", "model.look_back=null", "model.positions=conv"
    )
    known = {field.name for field in dataclasses.fields(CONFIGS[name.partition("_")[0]])} | {"_name"}
    assert set(cfg.model) <= known
    assert (cfg.model.mixer, cfg.model.look_ahead, cfg.model.look_back) == ("full", 3, None)


@pytest.mark.parametrize("name", NAMES)
def test_blocks_and_front_ends_can_be_chosen(repository, name):
    chosen = ("block=conformer", "mixer=chunked", "conv_kernel=15", "frontend=log_mel", "num_mels=40")
    cfg = composed(repository, name, *(f"model.{one}" for one in chosen), "model.mel_channels=[8,8]")
    assert [str(cfg.model[one.partition("=")[0]]) for one in chosen] == [one.partition("=")[2] for one in chosen]
    assert list(cfg.model.mel_channels) == [8, 8]
    plain, encoder = composed(repository, name).model, EncoderConfig()
    for field in ("block", "conv_kernel", "summary", "frontend", "num_mels", "mel_channels"):
        assert plain[field] == getattr(encoder, field)


@pytest.mark.parametrize("model", CONFIGS)
def test_sizes(repository, model):
    base, tiny = (composed(repository, f"{model}_{size}").model for size in ("base_librispeech", "tiny"))
    assert (base.encoder_layers, base.encoder_embed_dim, base.look_ahead, base.look_back) == (12, 768, 8, 60)
    assert (tiny.encoder_layers, tiny.encoder_embed_dim) == (4, 256)


@pytest.mark.parametrize("folder", ["/", "configs' parent"], ids=["from /", "from pretrain/"])
def test_the_command_line_finds_the_plugin_from_anywhere(repository, minute_corpus, tmp_path, folder):
    folder = Path("/") if folder == "/" else repository / "pretrain"
    configs = (repository / "pretrain" / "configs").relative_to(folder)
    command = [str(Path(sys.executable).with_name("fairseq-hydra-train")), "--config-dir", str(configs)]
    command += ["--config-name", "wav2vec2_tiny", f"task.data={minute_corpus}", f"hydra.run.dir={tmp_path}"]
    command += [
        "optimization.max_update=1",
        "model.encoder_layers=1",
        "dataset.disable_validation=true",
        "dataset.num_workers=0",
    ]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    cfg = torch.load(tmp_path / "checkpoints" / "checkpoint_last.pt", weights_only=True)["cfg"]
    user_dir = Path(cfg["common"]["user_dir"])
    assert user_dir.is_absolute()  # so that spawned workers find it, wherever they stand
    assert user_dir.resolve() == repository / "pretrain" / "headrace_fairseq"


def test_a_job_of_a_cluster_has_a_rank_for_each_gpu(repository):
    configs = str(repository / "pretrain" / "configs")
    with initialize_config_dir(configs, version_base="1.1"):
        cfg = compose("hubert_base_librispeech", ["+distributed=slurm", "hydra.run.dir=RUN"], return_hydra_config=True)
    launcher = cfg.hydra.launcher
    assert launcher._target_.endswith("SlurmLauncher") and launcher.tasks_per_node == launcher.gpus_per_node
    assert launcher.nodes * launcher.tasks_per_node == cfg.distributed_training.distributed_world_size == 32
    assert cfg.hydra.sweep.dir == "RUN" and cfg.distributed_training.distributed_port > 0


@pytest.mark.slow
def test_a_job_runs_in_the_launchers_local_mode_and_goes_on(repository, trainer, tmp_path, labelled_corpus):
    data = {"task__data": labelled_corpus, "task__label_dir": labelled_corpus, "config": "hubert_tiny"}
    command = [sys.executable, "-m", "fairseq_cli.hydra_train", "-m"]
    for updates in (2, 4):
        arguments = trainer.arguments(**data, hydra__run__dir=tmp_path / "run", optimization__max_update=updates)
        done = subprocess.run(
            [*command, *arguments, "+distributed=local"], capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    last = tmp_path / "run" / "checkpoints" / "checkpoint_last.pt"
    assert unpickle.read(last)["optimizer_history"][-1]["num_updates"] == 4
    assert list((tmp_path / "run" / "submitit").iterdir())

# SPDX-License-Identifier: Apache-2.0
"""fairseq's own Trainer writes what we read, and fairseq's own loader reads what we write."""

import importlib.util

import pytest
import torch

from encoders import small_encoder
from headrace.checkpoint import from_fairseq, load, to_fairseq
from headrace.cli import main
from headrace.export import export

pytest.importorskip("fairseq", reason="fairseq is not installed")
from fairseq import checkpoint_utils, tasks
from fairseq.dataclass.configs import FairseqConfig
from fairseq.dataclass.initialize import add_defaults
from fairseq.models.wav2vec.wav2vec2 import Wav2Vec2Model
from fairseq.models.wav2vec.wav2vec2_asr import Wav2Vec2AsrConfig, Wav2VecEncoder
from fairseq.trainer import Trainer
from omegaconf import OmegaConf

pytestmark = [
    pytest.mark.fairseq,
    pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning"),  # fairseq's positional convolution
]

UPDATES = 7
SIZE = {
    "encoder_layers": 4,
    "encoder_embed_dim": 32,
    "encoder_ffn_embed_dim": 64,
    "encoder_attention_heads": 4,
    "conv_feature_layers": "[(16, 10, 5)] + [(16, 3, 2)] * 4 + [(16,2,2)] * 2",
    "final_dim": 16,
    "quantize_targets": True,
}
# fairseq's options of the published models; everything that does not stand here is at fairseq's default.
STYLES = {
    "base": {"extractor_mode": "default", "layer_norm_first": False},
    "large": {"extractor_mode": "layer_norm", "layer_norm_first": True, "conv_bias": True},
}
OUR_STYLES = {
    "base": {"conv_norm": "group_norm", "norm_first": False},
    "large": {"conv_norm": "layer_norm", "norm_first": True, "conv_bias": True, "normalize_waveform": True},
}


def stock_trainer(model, data):
    """fairseq's Trainer for a model section: its own task, criterion and optimizer, at their defaults."""
    cfg = OmegaConf.create(OmegaConf.to_container(OmegaConf.structured(FairseqConfig), enum_to_str=True))
    cfg.task = {"_name": "audio_pretraining", "data": str(data)}
    cfg.model = {"_name": "wav2vec2", **model}
    cfg.criterion, cfg.optimizer, cfg.lr_scheduler = {"_name": "wav2vec"}, {"_name": "adam"}, {"_name": "fixed"}
    add_defaults(cfg)
    task = tasks.setup_task(cfg.task)
    model = task.build_model(cfg.model)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return Trainer(cfg, task, model, task.build_criterion(cfg.criterion))


@pytest.fixture(autouse=True)
def stock_save(monkeypatch):
    """The plugin puts a function of its own in the place of this one, and may have been imported before."""
    spec = importlib.util.find_spec("fairseq.checkpoint_utils")
    stock = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(stock)
    monkeypatch.setattr(checkpoint_utils, "torch_persistent_save", stock.torch_persistent_save)


def checkpoint_of_fairseq(style, folder):
    """(checkpoint, model): as fairseq saves in training."""
    (folder / "corpus").mkdir()
    trainer = stock_trainer(SIZE | STYLES[style], folder / "corpus")
    trainer.set_num_updates(UPDATES)
    trainer.consolidate_optimizer()
    path = folder / "checkpoint_last.pt"
    trainer.save_checkpoint(str(path), {"train_iterator": {"epoch": 1}, "val_loss": None})
    return path, trainer.model.eval()


def assert_same_hidden_states(model, encoder):
    """All layers, and the result behind the last norm."""
    waveforms = torch.randn(2, 8000)
    with torch.no_grad():
        theirs, ours = model(waveforms, mask=False, features_only=True), encoder(waveforms)
    layers = [layer.transpose(0, 1) for layer, *_ in theirs["layer_results"]]
    assert len(layers) == encoder.config.num_layers
    for found, expected in zip([*layers, theirs["x"]], [*ours.hidden_states[1:], ours.last_hidden_state], strict=True):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("style", STYLES)
def test_what_fairseqs_trainer_saved_is_read_frame_for_frame(style, tmp_path):
    path, model = checkpoint_of_fairseq(style, tmp_path)
    assert_same_hidden_states(model, from_fairseq(path))


def test_what_fairseqs_trainer_saved_is_exported_with_its_history(tmp_path):
    path, model = checkpoint_of_fairseq("base", tmp_path)
    exported = export(path, tmp_path / "folder")
    assert_same_hidden_states(model, exported.encoder)
    assert {"objective": "wav2vec", "updates": UPDATES, "corpus": "corpus"}.items() <= exported.provenance.items()


def test_an_acausal_model_that_fairseq_saved_is_masked_afterwards(tmp_path, capsys):
    path, model = checkpoint_of_fairseq("base", tmp_path)
    assert model.cfg.attention_dropout == 0.1  # fairseq's default, which the published models were trained with
    flags = ["--mixer", "masked", "--look-ahead", "8", "--look-back", "60"]
    assert main(["export", str(path), str(tmp_path / "folder"), *flags]) == 0
    assert "attention_dropout: 0.1 in training, 0 here" in capsys.readouterr().out
    masked = load(tmp_path / "folder")
    waveforms = torch.randn(1, 2800)  # 8 frames: every frame sees them all
    with torch.no_grad():
        expected = model(waveforms, mask=False, features_only=True)["x"]
    torch.testing.assert_close(masked(waveforms).last_hidden_state, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("embed_dim", [32, 16], ids=["projected", "as wide as the convolutions"])
@pytest.mark.parametrize("style", OUR_STYLES)
def test_what_we_wrote_is_loaded_by_fairseq_frame_for_frame(style, embed_dim, tmp_path):
    encoder = acausal_encoder(style, embed_dim=embed_dim)
    to_fairseq(encoder, tmp_path / "ours.pt")
    overrides = {"data": str(tmp_path)}
    models, _, task = checkpoint_utils.load_model_ensemble_and_task([str(tmp_path / "ours.pt")], overrides)
    assert type(models[0]) is Wav2Vec2Model
    assert (task.cfg.data, task.cfg.normalize) == (str(tmp_path), encoder.config.normalize_waveform)
    assert_same_hidden_states(models[0].eval(), encoder)


def acausal_encoder(style, **changes):
    return small_encoder(torch.float32, **{"mixer": "full", "positions": "conv", **OUR_STYLES[style], **changes})


@pytest.mark.parametrize("style", STYLES)
def test_fairseqs_weights_come_back_to_it_unchanged(style, tmp_path):
    path, model = checkpoint_of_fairseq(style, tmp_path)
    to_fairseq(from_fairseq(path), tmp_path / "ours.pt")
    (again,), _, _ = checkpoint_utils.load_model_ensemble_and_task([str(tmp_path / "ours.pt")])
    found, expected = again.state_dict(), model.state_dict()
    objective = ("mask_emb", "quantizer.", "project_q.", "final_proj.")
    encoders = [name for name in expected if not name.startswith(objective)]
    assert all(torch.equal(found[name], expected[name]) for name in encoders)
    assert not [name for name in found if name.startswith("quantizer.")]
    assert found.keys() == {*encoders, *(name for name in found if name.startswith(objective))}


def test_fairseqs_trainer_starts_from_what_we_wrote(tmp_path):
    encoder = acausal_encoder("large", embed_dim=32)
    to_fairseq(encoder, tmp_path / "ours.pt")
    cfg = torch.load(tmp_path / "ours.pt", weights_only=True)["cfg"]
    trainer = stock_trainer(cfg["model"], tmp_path)
    extra_state = trainer.load_checkpoint(str(tmp_path / "ours.pt"))
    assert (extra_state["train_iterator"]["epoch"], trainer.get_num_updates()) == (1, 0)
    assert_same_hidden_states(trainer.model.eval(), encoder)


def test_fairseq_fine_tunes_what_we_wrote(tmp_path):
    encoder = acausal_encoder("base")
    to_fairseq(encoder, tmp_path / "ours.pt")
    values = {"w2v_path": str(tmp_path / "ours.pt"), "data": str(tmp_path), "normalize": False}
    cfg = OmegaConf.merge(Wav2Vec2AsrConfig(), values, {"ddp_backend": "pytorch_ddp"})
    model = Wav2VecEncoder(cfg).w2v_model
    assert model.final_proj is None
    assert_same_hidden_states(model.eval(), encoder)


@pytest.mark.parametrize("changes", [{"mixer": "llsa", "hop": 3}, {"mixer": "sa", "look_ahead": [0, 3, 1]}], ids=str)
def test_streaming_encoders_are_loaded_by_fairseq_with_the_plugin(changes, tmp_path):
    plugin = pytest.importorskip("headrace_fairseq.models.headrace_wav2vec2")
    encoder = small_encoder(torch.float32, **changes)
    to_fairseq(encoder, tmp_path / "ours.pt")
    (model,), _, _ = checkpoint_utils.load_model_ensemble_and_task([str(tmp_path / "ours.pt")])
    assert type(model) is plugin.HeadraceWav2Vec2Model
    assert_same_hidden_states(model.eval(), encoder)


def test_the_same_encoder_is_written_as_the_same_tensors(tmp_path):
    encoder = acausal_encoder("base")
    for name in ("a.pt", "b.pt"):
        to_fairseq(encoder, tmp_path / name)
        torch.rand(3)
    a, b = (torch.load(tmp_path / name, weights_only=True)["model"] for name in ("a.pt", "b.pt"))
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)

# SPDX-License-Identifier: Apache-2.0
"""Checkpoints that fairseq itself wrote, read without it, frame for frame; and back."""

import dataclasses
import pickle
import subprocess
import sys

import pytest
import torch

from encoders import small_encoder
from headrace.checkpoint import from_fairseq, to_fairseq
from headrace.checkpoint.fairseq import encoder_config_from_fairseq, parse_conv_layers

CONV = "[(16, 10, 5)] + [(16, 3, 2)] * 4 + [(16,2,2)] * 2"
STYLES = {
    "base (post-norm, group norm)": {"extractor_mode": "default", "layer_norm_first": False, "conv_bias": False},
    "large (pre-norm, layer norm)": {"extractor_mode": "layer_norm", "layer_norm_first": True, "conv_bias": True},
}


def fairseq_model(style):
    fairseq = pytest.importorskip("fairseq.models.wav2vec.wav2vec2", reason="fairseq is not installed")
    torch.manual_seed(0)
    config = fairseq.Wav2Vec2Config(
        encoder_layers=4,
        encoder_embed_dim=32,
        encoder_ffn_embed_dim=64,
        encoder_attention_heads=4,
        conv_feature_layers=CONV,
        final_dim=16,
        quantize_targets=True,
        **style,
    )
    model = fairseq.Wav2Vec2Model(config).eval()
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return config, model


def write_like_fairseq(path, config, model):
    cfg = {"model": {"_name": "wav2vec2", **dataclasses.asdict(config)}, "task": {"_name": "audio_pretraining"}}
    torch.save({"args": None, "cfg": cfg, "model": model.state_dict(), "optimizer_history": []}, path)


@pytest.mark.fairseq
@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")  # fairseq's positional convolution
@pytest.mark.parametrize("style", STYLES.values(), ids=STYLES)
class TestFairseq:
    def test_all_layers_equal_fairseqs_own(self, style, tmp_path):
        config, model = fairseq_model(style)
        write_like_fairseq(tmp_path / "checkpoint.pt", config, model)
        encoder = from_fairseq(tmp_path / "checkpoint.pt")
        waveforms = torch.randn(2, 8000)
        with torch.no_grad():
            theirs = model(waveforms, mask=False, features_only=True)
            ours = encoder(waveforms)
        assert torch.allclose(theirs["x"], ours.last_hidden_state, atol=1e-5)
        layers = [layer.transpose(0, 1) for layer, *_ in theirs["layer_results"]]
        for a, b in zip(layers, ours.hidden_states[1:], strict=True):
            assert torch.allclose(a, b, atol=1e-5)

    def test_what_we_write_loads_into_fairseq(self, style, tmp_path):
        config, model = fairseq_model(style)
        write_like_fairseq(tmp_path / "theirs.pt", config, model)
        to_fairseq(from_fairseq(tmp_path / "theirs.pt"), tmp_path / "ours.pt")
        state = torch.load(tmp_path / "ours.pt", weights_only=True)["model"]
        expected = model.state_dict()
        assert all(torch.equal(tensor, expected[name]) for name, tensor in state.items())
        objective = ("mask_emb", "quantizer.", "project_q.", "final_proj.")
        assert all(name.startswith(objective) for name in expected.keys() - state.keys())


@pytest.mark.parametrize("mixer", ["full", "sa", "llsa"])
def test_round_trip_through_fairseqs_format(mixer, tmp_path):
    encoder = small_encoder(torch.float32, mixer=mixer, look_ahead=3)
    to_fairseq(encoder, tmp_path / "checkpoint.pt")
    again = from_fairseq(tmp_path / "checkpoint.pt")
    assert again.config == encoder.config
    waveforms = torch.randn(1, 4000)
    assert torch.equal(encoder(waveforms).last_hidden_state, again(waveforms).last_hidden_state)


def test_old_checkpoints_with_a_namespace_of_arguments_are_read(tmp_path):
    script = (
        "import argparse, sys, torch\n"
        "content = torch.load(sys.argv[1], weights_only=True)\n"
        "cfg = content.pop('cfg')\n"
        "content['args'] = argparse.Namespace(arch='wav2vec2', **{**cfg['task'], **cfg['model']})\n"
        "torch.save(content, sys.argv[1])\n"
    )
    encoder = small_encoder(torch.float32, mixer="full", positions="conv", look_ahead=0, look_back=None)
    to_fairseq(encoder, tmp_path / "old.pt")
    subprocess.run([sys.executable, "-c", script, tmp_path / "old.pt"], check=True)
    again = from_fairseq(tmp_path / "old.pt")
    assert again.config == encoder.config


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_a_malicious_pickle_is_refused_by_name_and_not_run(tmp_path):
    encoder = small_encoder(torch.float32)
    to_fairseq(encoder, tmp_path / "bad.pt")
    content = torch.load(tmp_path / "bad.pt", weights_only=True)
    torch.save({**content, "extra_state": Malicious(tmp_path / "owned")}, tmp_path / "bad.pt")
    with pytest.raises(ValueError, match=r"refused: it pickles (io|_io|builtins)\.open, which is not run"):
        from_fairseq(tmp_path / "bad.pt")
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not a readable checkpoint"),
        (b"not a checkpoint at all", "refused|not a readable checkpoint"),
        (pickle.dumps({"model": 1}), "refused|not a readable"),
    ],
    ids=["empty", "text", "plain pickle"],
)
def test_files_that_are_no_checkpoint_are_named(content, words, tmp_path):
    (tmp_path / "x.pt").write_bytes(content)
    with pytest.raises(ValueError, match=words):
        from_fairseq(tmp_path / "x.pt")


def test_a_checkpoint_with_a_missing_tensor_says_which(tmp_path):
    to_fairseq(small_encoder(torch.float32), tmp_path / "x.pt")
    content = torch.load(tmp_path / "x.pt", weights_only=True)
    del content["model"]["encoder.layers.1.fc1.weight"]
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(ValueError, match=r"missing context\.layers\.1\.fc1\.weight"):
        from_fairseq(tmp_path / "x.pt")


@pytest.mark.parametrize("text", ["__import__('os').system('x')", "[(1, 2)", "[(a, 1, 2)]", "3"], ids=str)
def test_conv_layers_are_read_without_eval(text):
    with pytest.raises(ValueError, match="conv_feature_layers"):
        parse_conv_layers(text)


def test_options_that_headrace_does_not_have_are_refused():
    with pytest.raises(ValueError, match="layer_type='conformer'"):
        encoder_config_from_fairseq({"layer_type": "conformer"})

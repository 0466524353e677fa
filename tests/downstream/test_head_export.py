# SPDX-License-Identifier: Apache-2.0
"""An ASR head out of s3prl's hands: live, it says what s3prl's own inference says."""

import argparse
import importlib
import re

import numpy as np
import pytest
import torch

import export_head
from encoders import small_encoder
from headrace import checkpoint, stream
from headrace.head import load_head
from headrace_downstream import compat
from headrace_downstream.corpora import HERE
from headrace_upstream.expert import EncoderUpstream

pytestmark = [pytest.mark.s3prl, pytest.mark.filterwarnings("ignore")]  # s3prl and what it imports warn of many things

RNNS = {
    "total_rate": 320, "module": "LSTM", "bidirection": False, "dim": [24, 20], "dropout": [0.2, 0.2],
    "layer_norm": [True, False], "proj": [True, False], "sample_rate": [1, 1], "sample_style": "drop",
}  # fmt: skip


@pytest.fixture(scope="module")
def encoder():
    return small_encoder(torch.float32, mixer="llsa")


def trained_by_s3prl(encoder, expdir, normalize=False, **changes):
    """An experiment folder with a head of random weights, and s3prl's own parts."""
    compat.install()
    interfaces = importlib.import_module("s3prl.upstream.interfaces")
    expert = importlib.import_module("s3prl.downstream.asr.expert")
    torch.manual_seed(1)
    datarc = {
        "dict_path": str(HERE / "asr" / "char.dict"),
        "zero_infinity": True,
        "decoder_args": {"decoder_type": "None"},
    }
    model = {"project_dim": 16, "select": "RNNs", "RNNs": {**RNNS, **changes}}
    config = {"downstream_expert": {"datarc": datarc, "modelrc": model}, "runner": {"total_steps": 1}}
    upstream = EncoderUpstream(encoder)
    featurizer = interfaces.Featurizer(upstream, "hidden_states", upstream_device="cpu", normalize=normalize)
    expdir.mkdir()
    downstream = expert.DownstreamExpert(16, 320, config["downstream_expert"], expdir).eval()
    featurizer.weights.data = torch.randn(4)
    for parameter in downstream.parameters():
        parameter.data = 1.5 * torch.randn_like(parameter)
    args = argparse.Namespace(
        upstream_feature_selection="hidden_states", upstream_layer_selection=None, upstream_feature_normalize=normalize
    )
    states = {
        "Args": args, "Config": config, "Step": 1,
        "Featurizer": featurizer.state_dict(), "Downstream": downstream.state_dict(),
    }  # fmt: skip
    torch.save(states, expdir / "dev-clean-best.ckpt")
    return upstream, featurizer, downstream


@pytest.mark.parametrize(
    ("normalize", "changes"),
    [(False, {}), (True, {}), (False, {"dim": [24]})],
    ids=["features as they are", "normalised features", "one LSTM with settings for two"],  # as in config_causal_tiny
)
def test_live_text_is_that_of_s3prls_inference(encoder, tmp_path, normalize, changes):
    upstream, featurizer, downstream = trained_by_s3prl(encoder, tmp_path / "exp", normalize, **changes)
    checkpoint.save(encoder, tmp_path / "encoder")
    assert export_head.main([str(tmp_path / "exp"), str(tmp_path / "encoder")]) == 0
    head = load_head(tmp_path / "encoder")
    generator = np.random.default_rng(0)
    spoken = 0
    for num_samples in (1, 159, 161, 324, 480, 800, 5000, 16000, 16160, 33333):
        samples = generator.normal(0, 1, num_samples).astype(np.float32)
        wavs = [torch.from_numpy(samples)]
        with torch.no_grad():
            features = featurizer(wavs, upstream(wavs))
            expected = downstream.inference(features, [])[0] if len(features[0]) else ""
        session = stream.Session(encoder, head)
        for begin in range(0, num_samples, 777):
            session.feed(samples[begin : begin + 777])
        session.finish()
        assert session.text == expected
        spoken += len(expected)
    assert spoken > 100


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"bidirection": True}, "bidirectional LSTM, which waits for the whole utterance .*config_causal.yaml"),
        ({"sample_rate": [2, 1]}, r"sample_rate \[2, 1\]"),
        ({"module": "GRU"}, "module GRU"),
    ],
    ids=["bidirectional", "downsampling", "module"],
)
def test_a_head_that_cannot_run_live_is_refused(encoder, tmp_path, capsys, changes, said):
    trained_by_s3prl(encoder, tmp_path / "exp", **changes)
    checkpoint.save(encoder, tmp_path / "encoder")
    assert export_head.main([str(tmp_path / "exp"), str(tmp_path / "encoder")]) == 2
    assert re.search(said, capsys.readouterr().err)
    assert load_head(tmp_path / "encoder") is None


def test_a_head_of_another_encoder_is_refused(encoder, tmp_path, capsys):
    trained_by_s3prl(encoder, tmp_path / "exp")
    checkpoint.save(small_encoder(torch.float32, mixer="llsa", num_layers=2), tmp_path / "encoder")
    assert export_head.main([str(tmp_path / "exp"), str(tmp_path / "encoder")]) == 2
    assert "heard 4 hidden states of 16, and" in capsys.readouterr().err

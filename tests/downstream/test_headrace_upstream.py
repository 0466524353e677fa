# SPDX-License-Identifier: Apache-2.0
"""Headrace's own encoders through the launcher: registered, kept once per utterance, told apart by their settings."""

import dataclasses
import json

import pytest
import torch

import headrace
import run
from headrace import checkpoint
from headrace_downstream import checkpoints
from headrace_downstream.corpora import HERE

pytestmark = [pytest.mark.s3prl, pytest.mark.filterwarnings("ignore")]  # s3prl and what it imports warn of many things

TINY = {"num_layers": 2, "embed_dim": 16, "ffn_dim": 32, "num_heads": 2, "look_ahead": 1, "look_back": 4}
CONV = [[16, 10, 5], [16, 8, 8], [16, 8, 8]]


def test_full_and_its_masked_twin_are_scored_on_features_of_their_own(emotion_corpus, tmp_path):
    torch.manual_seed(0)
    full = headrace.SpeechEncoder(headrace.EncoderConfig(mixer="full", conv_layers=CONV, **TINY))
    masked = headrace.SpeechEncoder(dataclasses.replace(full.config, mixer="masked"))
    masked.load_state_dict(full.state_dict())
    root, manifests = emotion_corpus
    short = "config.runner.total_steps=2,,config.runner.eval_step=1,,config.runner.save_step=1"
    for name, encoder in {"full": full, "masked": masked}.items():
        checkpoint.save(encoder.eval(), tmp_path / name)
        line = f"-m train,evaluate -u headrace_local -k {tmp_path / name} -d emotion -c {HERE}/emotion/config_tiny.yaml"
        line += f" -p {tmp_path}/exp-{name} --data {root} --manifests {manifests} --device cpu -o {short}"
        assert run.main([*line.split(), "--feature-cache", str(tmp_path / "features")]) == 0
        kept = json.loads((tmp_path / f"exp-{name}" / "score.json").read_text())
        assert len(kept["run"]["layer_weights"]) == 3
    assert len(list((tmp_path / "features").iterdir())) == 2


@pytest.mark.parametrize("total_rate", [320, 640, -1])
def test_an_asr_head_takes_frames_of_40_ms_as_they_are(asr_corpus, tmp_path, total_rate):
    torch.manual_seed(0)
    config = headrace.EncoderConfig(
        mixer="none", block="conformer", frontend="log_mel", mel_channels=[2, 2], hop=2, conv_kernel=3, num_layers=1,
        embed_dim=16, ffn_dim=32, num_heads=2, positions="none",
    )  # fmt: skip
    checkpoint.save(headrace.SpeechEncoder(config).eval(), tmp_path / "encoder")
    root, manifests = asr_corpus
    short = "config.runner.total_steps=2,,config.runner.eval_step=1,,config.runner.save_step=1"
    short += f",,config.downstream_expert.modelrc.RNNs.total_rate={total_rate}"
    line = f"-m train,evaluate -u headrace_local -k {tmp_path / 'encoder'} -d asr -c {HERE}/asr/config_tiny.yaml"
    line += f" -p {tmp_path}/exp --data {root} --manifests {manifests} --device cpu -o {short}"
    assert run.main(line.split()) == 0
    head = checkpoints.load(tmp_path / "exp" / "states-2.ckpt")["Downstream"]
    assert head["model.rnns.0.layer.weight_ih_l0"].shape[1] == head["projector.weight"].shape[0]  # not stacked

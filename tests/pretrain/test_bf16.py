# SPDX-License-Identifier: Apache-2.0
"""In bfloat16 a pretraining learns what it learns in fp32, nearly, goes on, and leaves a folder in fp32."""

import pytest
import torch

from headrace.export import export
from headrace_stages.progress import training_row

pytestmark = pytest.mark.fairseq


def losses(training):
    return [row["loss"] for line in training.log.splitlines() if (row := training_row(line))]


@pytest.fixture
def pretrain(trainer, labelled_corpus):
    def start(name, config, **overrides):
        data = {"task__data": labelled_corpus, "task__label_dir": labelled_corpus} if config == "hubert_tiny" else {}
        training = trainer.start(name, config=config, **(data | overrides))
        training.finish()
        return training

    return start


@pytest.mark.parametrize("mixer", ["llsa", pytest.param("full", marks=pytest.mark.slow)])
@pytest.mark.parametrize("config", ["wav2vec2_tiny", "hubert_tiny"])
def test_bf16_learns_nearly_what_fp32_learns(pretrain, config, mixer):
    updates = {"optimization__max_update": 10, "model__mixer": mixer}
    half, single = (pretrain(f"bf16-{on}", config, common__bf16=on, **updates) for on in ("true", "false"))
    assert len(losses(half)) == 10
    assert losses(half) == pytest.approx(losses(single), rel=0.03)
    assert losses(half) != losses(single)


def test_bf16_goes_on_and_leaves_a_folder_in_fp32(pretrain, tmp_path):
    pretrain("run", "hubert_tiny", common__bf16="true", optimization__max_update=4)
    training = pretrain("run", "hubert_tiny", common__bf16="true", optimization__max_update=8)
    assert len(losses(training)) == 8
    encoder = export(training.last_checkpoint, tmp_path / "encoder").encoder
    assert {parameter.dtype for parameter in encoder.parameters()} == {torch.float32}
    hidden = encoder(torch.randn(1, 8000)).hidden_states
    assert all(torch.isfinite(layer).all() for layer in hidden)

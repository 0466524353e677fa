# SPDX-License-Identifier: Apache-2.0
"""Whole runs of fairseq-hydra-train on conformers in chunks: every mixer, both objectives, a reach for each batch."""

import time

import pytest
import torch

from headrace import Blocks, Everything
from headrace.checkpoint import from_fairseq

pytestmark = pytest.mark.fairseq

DRAWN = "{restricted: 0.6, hop: [2, 5], limited: 0.5, look_back_blocks: [1, 2]}"
DYNAMIC = {"recipe": "dynamic_chunks", "model__frontend": "waveform", "model__conv_kernel": 5, "model__drawn": DRAWN}
SETTINGS = {**DYNAMIC, "model__hop": 4, "model__look_back": 8, "optimization__max_update": 4}


@pytest.fixture
def settings(labelled_corpus):
    """Of a run on conformers."""

    def of(config, **overrides):
        data = {"task__data": labelled_corpus, "task__label_dir": labelled_corpus} if config == "hubert_tiny" else {}
        return {"config": config, **SETTINGS, **data, **overrides}

    return of


@pytest.mark.parametrize("config", ["wav2vec2_tiny", "hubert_tiny"])
@pytest.mark.parametrize("mixer", ["chunked", "deformable", "none", "summary"])
def test_one_encoder_is_trained_for_every_chunk_and_the_whole(trainer, settings, config, mixer):
    training = trainer.start("run", **settings(config, model__mixer=mixer))
    training.finish()
    encoder = from_fairseq(training.last_checkpoint)
    assert encoder.config.mixer == mixer and encoder.config.drawn_reach.hop == (2, 5)
    waveforms = torch.randn(1, 8000)
    for reach in (*(Blocks(0, 2 * hop, hop, per_block=True) for hop in (2, 3, 5)), Everything()):
        assert encoder(waveforms, reach=reach).last_hidden_state.isfinite().all()


@pytest.mark.parametrize("config", ["wav2vec2_tiny", "hubert_tiny"])
def test_a_killed_run_goes_on_with_the_same_reaches(trainer, settings, config):
    more = {"optimization__max_update": 12}
    whole = trainer.start("whole", **settings(config, **more)).finish()
    training = trainer.start("killed", **settings(config, **more))
    while not training.last_checkpoint.exists() and training.process.is_alive():
        time.sleep(0.01)
    training.process.kill()
    training.process.join()
    killed = trainer.start("killed", **settings(config, **more)).finish()
    assert all(torch.equal(whole["model"][name], killed["model"][name]) for name in whole["model"])


def test_llsa_in_a_conformer_is_one_clear_line(trainer, settings):
    training = trainer.start("run", **settings("wav2vec2_tiny", model__mixer="llsa"))
    assert training.wait() == 2
    assert "mixer='llsa' cannot stand in block='conformer'" in training.log.splitlines()[-1]

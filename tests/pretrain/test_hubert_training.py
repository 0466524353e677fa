# SPDX-License-Identifier: Apache-2.0
"""Whole HuBERT runs of fairseq-hydra-train: reproducible, on from where they were, never with other labels."""

import time

import pytest
import torch

from headrace.checkpoint import from_fairseq
from headrace_stages.progress import training_row

pytestmark = pytest.mark.fairseq

UPDATES = 12


def same_weights(a, b):
    return a["model"].keys() == b["model"].keys() and all(torch.equal(a["model"][k], b["model"][k]) for k in a["model"])


@pytest.fixture
def hubert(trainer, labelled_corpus):
    """Starts HuBERT runs on the labelled corpus."""

    def start(name="run", **overrides):
        settings = {
            "optimization__max_update": UPDATES,
            "task__data": labelled_corpus,
            "task__label_dir": labelled_corpus,
        }
        return trainer.start(name, config="hubert_tiny", **(settings | overrides))

    return start


def test_a_run_that_went_on_ends_where_the_undisturbed_one_ends_and_exports(hubert):
    undisturbed = hubert("undisturbed", dataset__disable_validation="false", dataset__num_workers=1)
    killed = hubert(dataset__disable_validation="false")
    deadline = time.monotonic() + 120
    while not killed.last_checkpoint.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    killed.process.kill()
    killed.process.join()
    other = hubert(dataset__disable_validation="false").finish()
    first = undisturbed.finish()
    assert same_weights(first, other)
    rows = [row for line in undisturbed.log.splitlines() if (row := training_row(line))]
    assert {"loss", "correct_m_0", "correct_u_0", "loss_m_0", "loss_u_0"} <= set(rows[0])
    encoder = from_fairseq(undisturbed.last_checkpoint)
    assert encoder.config.mixer == "llsa"
    assert torch.equal(encoder.state_dict()["project.norm.weight"], first["model"]["layer_norm.weight"])


@pytest.mark.parametrize("mixer", ["full", "masked", "sa"])
def test_every_mixer_trains(hubert, mixer):
    assert len(hubert(model__mixer=mixer, optimization__max_update=2).finish()["model"])


def test_other_labels_are_another_run(hubert, labelled_corpus, labels_of):
    hubert(optimization__max_update=2).finish()
    labels_of(labelled_corpus, seed=4)
    again = hubert()
    assert again.wait() == 2
    assert "is another experiment's: labels of " in again.log.splitlines()[-1]
    labels_of(labelled_corpus)
    hubert(optimization__max_update=3).finish()


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        pytest.param("dict.km.txt", "", "names 0 clusters", id="empty dictionary"),
        pytest.param("dict.km.txt", None, "dict.km.txt is not there", id="no dictionary"),
        pytest.param("train.km", None, "train.km is not there", id="no labels"),
        pytest.param("train.km", "0 1 2\n", "1 lines", id="lines missing"),
    ],
)
def test_labels_that_do_not_belong_end_the_run_before_it_begins(hubert, labelled_corpus, file, content, said):
    path = labelled_corpus / file
    path.unlink()
    if content is not None:
        path.write_text(content)
    training = hubert()
    assert training.wait() == 2
    assert said in training.log.splitlines()[-1]
    assert not training.last_checkpoint.exists()


def test_labels_of_another_rate_are_told_theirs(hubert, labelled_corpus, labels_of):
    labels_of(labelled_corpus, rate=100)
    training = hubert()
    assert training.wait() == 2
    assert "look like 100 a second, set task.label_rate=100" in training.log.splitlines()[-1]

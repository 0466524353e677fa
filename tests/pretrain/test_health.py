# SPDX-License-Identifier: Apache-2.0
"""A healthy run is left in peace; each kind of sick one is told what it has."""

import json

import numpy as np
import pytest

pytest.importorskip("fairseq", reason="fairseq is not installed")
from headrace_fairseq.health import PATIENCE, WINDOW, Facts, Health, dead_clusters
from headrace_pretraining.findings import Finding

WAV2VEC2 = Facts(chance=1 / 101, groups=2)
HUBERT = Facts(chance=0.03)


def names(health):
    return [finding.name for finding in health.findings]


def watched(facts, rows, first=1):
    health = Health(facts, None)
    for update, row in enumerate(rows, start=first):
        health.update(row, update)
    return health


def test_a_healthy_run_is_left_in_peace():
    updates = np.arange(1, 3000)
    rows = [
        {"loss": 7.0 - u / 1000, "accuracy": 0.02 + u / 10000, "code_perplexity": 60.0, "gnorm": 1.0} for u in updates
    ]
    assert names(watched(WAV2VEC2, rows)) == []
    rows = [{"loss": 6.0, "correct_m_0": 0.03 + u / 20000, "correct_u_0": 0.05 + u / 10000} for u in updates]
    assert names(watched(HUBERT, rows)) == []


@pytest.mark.parametrize(
    ("facts", "row", "first", "name"),
    [
        pytest.param(WAV2VEC2, {"loss": float("nan")}, 1, "not finite", id="nan"),
        pytest.param(WAV2VEC2, {"accuracy": 0.5, "code_perplexity": 2.1}, 1, "collapsed codes", id="collapse"),
        pytest.param(WAV2VEC2, {"accuracy": 1.0, "code_perplexity": 30.0}, 1, "too good", id="accuracy of 1"),
        pytest.param(HUBERT, {"correct_m_0": 0.99, "correct_u_0": 1.0}, 1, "too good", id="accuracy of 1, hubert"),
        pytest.param(WAV2VEC2, {"accuracy": 0.011, "code_perplexity": 60.0}, PATIENCE, "at chance", id="at chance"),
        pytest.param(HUBERT, {"correct_m_0": 0.031, "correct_u_0": 0.2}, PATIENCE, "at chance", id="at chance, hubert"),
        pytest.param(
            HUBERT, {"correct_m_0": 0.5, "correct_u_0": 0.4}, PATIENCE, "masks leak", id="masked known better"
        ),
    ],
)
def test_each_sickness_is_told_once(facts, row, first, name):
    assert names(watched(facts, [row] * 3 * WINDOW, first)) == [name]


def test_chance_is_forgiven_at_the_beginning():
    assert names(watched(WAV2VEC2, [{"accuracy": 0.01, "code_perplexity": 60.0}] * (PATIENCE - 1))) == []


def test_clusters_without_a_frame_are_counted():
    assert dead_clusters([3, 0, 4, 5]) is None
    assert "3 of 4 clusters label no frame" in dead_clusters([0, 0, 0, 5])


def test_a_run_that_goes_on_knows_what_was_found_before_and_a_new_one_forgets_it(tmp_path):
    first = Health(WAV2VEC2, tmp_path)
    for update in range(1, WINDOW + 1):
        first.update({"accuracy": 1.0, "code_perplexity": 30.0}, update)
    assert names(first) == ["too good"]
    goes_on, new = Health(WAV2VEC2, tmp_path), Health(WAV2VEC2, tmp_path)
    goes_on.begin(WINDOW)
    assert names(goes_on) == ["too good"]
    new.begin(0)
    assert names(new) == [] and not (tmp_path / "health.json").exists()


@pytest.mark.parametrize("text", ["", "[{", "{}", '[{"name": "typo"}]'])
def test_a_file_of_findings_that_nobody_can_read_is_none(tmp_path, text):
    (tmp_path / "health.json").write_text(text)
    health = Health(WAV2VEC2, tmp_path)
    health.begin(5)
    assert health.findings == []


def test_a_full_disk_does_not_end_a_run_that_is_found_sick(tmp_path, caplog):
    (tmp_path / "file").touch()
    health = Health(WAV2VEC2, tmp_path / "file" / "checkpoints")
    health.add(Finding("too good", 7, "text"))
    assert health.findings and "this finding stands in no file: " in caplog.text


# ---- real runs ----


@pytest.fixture
def run(trainer, labelled_corpus):
    def start(config, **overrides):
        data = {"task__data": labelled_corpus, "task__label_dir": labelled_corpus} if config == "hubert_tiny" else {}
        training = trainer.start(config=config, **(data | overrides))
        training.finish()
        path = training.run_dir / "checkpoints" / "health.json"
        return [one["name"] for one in json.loads(path.read_text())] if path.exists() else []

    return start


@pytest.mark.fairseq
def test_labels_that_are_all_the_same_are_seen_in_a_real_run(run, labelled_corpus, tmp_path):
    for path in labelled_corpus.glob("*.km"):
        path.write_text("".join(" ".join("0" for _ in line.split()) + "\n" for line in path.read_text().splitlines()))
    logdir = tmp_path / "tensorboard"
    found = run("hubert_tiny", optimization__max_update=80, common__tensorboard_logdir=logdir)
    assert found == ["dead clusters", "too good"]
    assert list((logdir / "health").iterdir())


@pytest.mark.fairseq
def test_a_collapsed_codebook_is_seen_in_a_real_run(run):
    sick = {"criterion__loss_weights": "[0.0,0.0]", "optimization__lr": "[0.03]", "model__latent_temp": "[0.5,0.1,0.9]"}
    assert "collapsed codes" in run("wav2vec2_tiny", optimization__max_update=250, **sick)


@pytest.mark.fairseq
def test_a_loss_that_is_no_number_is_told_before_fairseq_ends_the_run(trainer):
    training = trainer.start(optimization__max_update=40, optimization__lr="[1e30]")
    assert training.wait() != 0
    found = json.loads((training.run_dir / "checkpoints" / "health.json").read_text())
    assert "not finite" in [one["name"] for one in found]


@pytest.mark.slow
@pytest.mark.fairseq
def test_a_learning_rate_that_is_too_high_is_seen_in_a_real_run(run):
    found = run("hubert_tiny", optimization__max_update=PATIENCE + WINDOW, optimization__lr="[0.5]")
    assert "at chance" in found


@pytest.mark.fairseq
def test_a_short_healthy_run_is_left_in_peace(run):
    assert run("hubert_tiny", optimization__max_update=80) == []

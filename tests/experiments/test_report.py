# SPDX-License-Identifier: Apache-2.0
"""The report of a run: every number from what the stages left, said in red where a pretrained encoder does not win."""

import json
import subprocess
import sys

import pytest

from headrace import EncoderConfig, SpeechEncoder
from headrace.checkpoint import save
from headrace_downstream import predictions, score
from headrace_downstream.predictions import Prediction
from headrace_experiments import curve, description, pictures, report_file, results_file
from headrace_experiments.collect import collect
from headrace_experiments.corpora import Splits
from headrace_experiments.experiment import Corpora, Experiment, Pretraining, Row, Task
from headrace_experiments.page import page
from headrace_experiments.plan import CHECKOUT, Plan, Speech
from headrace_experiments.reference import reference_curve
from headrace_experiments.table import findings, for_markdown, for_terminal, table
from headrace_pretraining.findings import Finding, write_findings
from headrace_stages import stamps
from headrace_stages.stage import RunFolder
from headrace_stages.stamps import Stamp

CLASSES = ("ang", "hap", "neu", "sad")
TINY = {"num_layers": 2, "embed_dim": 16, "ffn_dim": 16, "num_heads": 2, "conv_layers": [[8, 10, 5], [16, 8, 4]]}

EXPERIMENT = Experiment(
    name="fake",
    title="a fake run",
    budget_minutes=1,
    corpora=Corpora(),
    pretraining={"llsa": Pretraining(1, "wav2vec2_tiny", 50, overrides=["model.mixer=llsa"])},
    rows={
        "fbank": Row("FBANK", upstream={"asr": "fbank", "emotion": "fbank_no_cmvn"}, waits="whole utterance"),
        "untrained": Row("untrained llsa", untrained="llsa", seed=1),
        "llsa": Row("llsa", pretrained="llsa", twin="untrained"),
    },
    main="llsa",
    tasks={
        "asr": Task("asr/config_tiny.yaml", 1337, 10, 5),
        "emotion": Task("emotion/config_tiny.yaml", 1337, 10, 5),
    },
    expected_seconds={},
    notes=["a note"],
)


def heard(task, wrong_per_ten):
    """Predictions of 8 speakers with 10 utterances each, so many of which are wrong."""
    said = []
    for speaker in range(8):
        for number in range(10):
            reference = "ONE TWO THREE" if task == "asr" else CLASSES[(number + speaker) % 4]
            other = "ONE TWO FIVE" if task == "asr" else CLASSES[(number + speaker + 1) % 4]
            hypothesis = other if number < wrong_per_ten else reference
            said.append(Prediction(f"{speaker}-{number}", str(speaker), reference, hypothesis))
    return said


def leave_score(expdir, task, said):
    expdir.mkdir(parents=True)
    predictions.write(expdir / "predictions-test.tsv", said)
    result = score.score(task, said) | {"predictions": ["predictions-test.tsv"], "run": {"layer_weights": None}}
    if task == "emotion":
        result["mean_of_folds"] = {"accuracy": {"value": 50.0, "deviation": 1.0}}
    score.write(expdir / "score.json", result)


def leave_manifests(folder):
    buckets = folder.stage("manifest-asr") / "len_for_bucket"
    buckets.mkdir(parents=True)
    for split in ("train", "dev", "test"):
        (buckets / f"{split}.csv").write_text(",file_path,length,label\n0,t/1/2/1-2-0.flac,960000,\n")
    session = folder.stage("manifest-emotion") / "meta_data" / "Session1"
    session.mkdir(parents=True)
    (session / "test_meta_data.json").write_text(json.dumps({"labels": {}, "meta_data": [{"label": "ang"}]}))
    manifest = folder.stage("manifest-pretraining")
    manifest.mkdir(parents=True)
    (manifest / "train.tsv").write_text("root\na.flac\t960000\n")


def log_line(updates, loss):
    values = {"loss": str(loss), "loss_0": str(loss), "code_perplexity": "40.5", "num_updates": str(updates)}
    values |= {"accuracy": "0.0525"}
    return f"[2026-11-21 08:00:00,000][train_inner][INFO] - {json.dumps(values)}\n"


WRONG = {"asr": {"fbank": 2, "untrained": 8, "llsa": 5}, "emotion": {"fbank": 8, "untrained": 5, "llsa": 5}}
"""Utterances of ten that each row gets wrong: llsa beats its twin on ASR, FBANK on emotion, and nobody else."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = RunFolder(tmp_path_factory.mktemp("run"))
    speech = Speech(folder.root / "asr", folder.root / "ser", Splits("train", "dev", "test"), (True, True))
    stages = Plan(EXPERIMENT, folder, speech).stages()
    splits = {"train": "train", "dev": "dev", "test": "test"}
    facts = {"asr": "asr", "ser": "ser", "splits": splits, "command": "make", "jobs": 2, "threads": 1}
    description.write(folder, EXPERIMENT, facts, stages)
    for stage in stages:
        spans = [[1e9, 1e9 + 60]]  # all side by side, in the one minute that the budget allows
        stamp = Stamp("key", "done", list(stage.command), 1, 60.0, 50.0, "abc", spans=spans)
        stamps.write(folder, stage.name, stamp)
    leave_manifests(folder)
    for row in ("untrained", "llsa"):
        encoder = SpeechEncoder(EncoderConfig(mixer="llsa", look_ahead=4, look_back=20, **TINY))
        save(encoder, folder.stage(f"export-{row}") / "encoder", {})
    for task, by_row in WRONG.items():
        for row, wrong in by_row.items():
            leave_score(folder.stage(f"{task}-{row}") / "exp", task, heard(task, wrong))
    folder.log("x").parent.mkdir()
    folder.log("pretrain-llsa").write_text(log_line(25, 6.7) + log_line(50, 6.5))
    return folder


@pytest.fixture(scope="module")
def report(folder):
    return collect(folder)


@pytest.fixture(scope="module")
def html(report):
    return page(report)


def test_each_score_stands_beside_chance_fbank_and_the_twin(report):
    t = table(report)
    assert [row[0] for row in t.rows] == ["chance", "FBANK", "untrained llsa", "llsa"]
    assert t.rows[t.main][0] == "llsa"
    wer = t.headings.index("WER % [95 %]")
    assert [row[wer].split()[0] for row in t.rows] == ["100.0", "6.7", "26.7", "16.7"]
    accuracy = t.headings.index("accuracy % [95 %]")
    assert [row[accuracy].split()[0] for row in t.rows] == ["25.0", "20.0", "50.0", "50.0"]


def test_look_ahead_is_that_of_the_encoder(report):
    t = table(report)
    column = t.headings.index("look-ahead")
    assert [row[column] for row in t.rows] == ["", "whole utterance", "4 frames, 5 ms", "4 frames, 5 ms"]


def test_wins_and_losses_come_with_their_paired_interval(report):
    found = [(finding.is_win, finding.text) for finding in findings(report)]
    assert found == [
        (False, "ASR: llsa does not beat FBANK: WER +10.0 points [+10.0, +10.0]"),
        (True, "ASR: llsa beats untrained llsa: WER -10.0 points [-10.0, -10.0]"),
        (True, "emotion: llsa beats FBANK: accuracy +30.0 points [+30.0, +30.0]"),
        (False, "emotion: llsa does not beat untrained llsa: accuracy +0.0 points [+0.0, +0.0]"),
    ]


def test_ahead_with_an_interval_that_holds_zero_is_no_win(report):
    comparison = dict(report["comparisons"][0], verdict="ahead")
    one = findings(report | {"comparisons": [comparison]})[0]
    assert not one.is_win and "is ahead of, but not shown to beat, FBANK" in one.text


def test_the_terminal_says_losses_in_red(report):
    text = for_terminal(report, colour=True)
    assert text.count("\x1b[31m! ") == 2 and text.count("\n+ ") == 2
    assert "\x1b" not in for_terminal(report, colour=False)


def test_the_page_needs_nothing_else(html):
    assert html.count("<svg") == 5 and html.count('class="bad"') == 2
    assert "src=" not in html and "@import" not in html and "<script" not in html


def test_the_page_is_the_same_each_time(report, html):
    assert page(report) == html


def test_facts_stand_beside_the_numbers(html):
    for fact in (
        "train 1.0 min, 1 utterances, 1 speakers",
        "seed 1, 50 updates in 1.0 min",
        "code perplexity 40",
        "0.5 bits below uniform guessing (6.66 bits) never; ",
        "took 1.0 of 1 minutes",
        "abc",
        "fbank_no_cmvn for emotion",
        "make",
    ):
        assert fact in html


def with_wall(report, seconds):
    return report | {"made": report["made"] | {"wall_seconds": seconds}}


def test_the_budget_stands_beside_what_was_taken(report, html):
    for text in (for_terminal(report, colour=True), html, for_markdown(report)):
        assert "took 1.0 of 1 minutes" in text and "over its budget" not in text


def test_a_run_over_its_budget_says_so_in_red(report):
    late = with_wall(report, 90)
    assert "\x1b[31mtook 1.5 of 1 minutes: over its budget\x1b[0m" in for_terminal(late, colour=True)
    assert "\x1b" not in for_terminal(late, colour=False)
    assert '<p class="bad">took 1.5 of 1 minutes: over its budget</p>' in page(late)
    assert "- 🔴 took 1.5 of 1 minutes: over its budget" in for_markdown(late)


def test_a_report_from_before_times_were_kept_says_that(report):
    old = report | {"made": {key: value for key, value in report["made"].items() if key != "wall_seconds"}}
    assert "budget 1 minutes; what it took was not kept" in for_terminal(old, colour=True)


@pytest.mark.parametrize(
    ("losses", "when"),
    [
        ([(50, 6.65), (100, 6.16), (150, 6.15), (200, 6.2), (250, 5.5)], "first at update 150"),
        ([(50, 6.65), (100, 6.6)], "never"),
    ],
    ids=["learned", "not yet"],
)
def test_the_curve_is_told_in_one_line(report, losses, when):
    points = [{"updates": updates, "contrastive_loss_bits": bits, "accuracy": 0.198} for updates, bits in losses]
    one = report["pretraining"]["llsa"] | {"curve": points}
    text = for_markdown(report | {"pretraining": {"llsa": one}})
    updates, bits = losses[-1]
    told = f"0.5 bits below uniform guessing (6.66 bits) {when}; {bits:.2f} bits, accuracy 19.8 % at update {updates}"
    assert f"- contrastive training loss of llsa: {told}\n" in text


@pytest.mark.parametrize(
    ("second", "is_win"),
    [
        ({"share": 0.10, "chance": 0.04}, True),
        ({"share": 0.06, "chance": 0.01}, False),
        ({"share": 0.10, "chance": 0.06}, False),
    ],
    ids=["more", "less", "more by chance alone"],
)
def test_what_the_labels_of_two_iterations_tell_is_said(report, second, is_win):
    first = {"features": "MFCC", "num_clusters": 100, "share": 0.07, "chance": 0.02, "frames": 9, "utterances": 1}
    labels = [first, first | {"features": "layer 3", "num_clusters": 500} | second]
    one = report["pretraining"]["llsa"] | {"labels": labels}
    found = findings(report | {"pretraining": {"llsa": one}})[-1]
    words = "tell more" if is_win else "are not shown to tell more"
    told = f"500 clusters of layer 3 {100 * second['share']:.2f} % ({100 * second['chance']:.2f} % by chance)"
    assert found.is_win is is_win
    assert found.text == (
        f"labels of llsa {words} of the characters with the next iteration: "
        f"100 clusters of MFCC 7.00 % (2.00 % by chance); then {told}"
    )
    assert f"100 clusters of MFCC 7.00 % (2.00 % by chance); {told}" in page(report | {"pretraining": {"llsa": one}})


def test_a_pretraining_without_a_curve_is_told(report):
    one = report["pretraining"]["llsa"] | {"curve": []}
    assert "- pretraining llsa: no training curve" in for_markdown(report | {"pretraining": {"llsa": one}})


def test_the_stored_run_of_the_same_recipe_is_drawn_behind(report, tmp_path, monkeypatch):
    mine = report["pretraining"]["llsa"]
    healthy = mine | {"curve": [{"updates": 25.0, "accuracy": 0.1}, {"updates": 50.0, "accuracy": 0.3}]}
    other = mine | {"overrides": ["model.mixer=full"], "curve": []}
    report_file.write(tmp_path / "stored.json", report | {"pretraining": {"full": other, "llsa": healthy}})
    assert reference_curve(mine, tmp_path) == healthy["curve"]
    assert reference_curve(healthy, tmp_path) == []  # this very run
    assert reference_curve(mine | {"config": "another"}, tmp_path) == []
    alone = pictures.training_curves(report)
    monkeypatch.setattr(pictures, "reference_curve", lambda one: reference_curve(one, tmp_path))
    assert alone.count("<path") < pictures.training_curves(report).count("<path")


def test_the_report_names_nothing_of_this_machine(report, html):
    text = json.dumps(report) + html
    assert str(CHECKOUT) not in text and sys.executable not in text


def test_few_speakers_are_warned_of_once(report):
    assert report["warnings"] == [
        f"{task}: 8 speakers: with fewer than 20 the interval by speaker is too narrow to lean on"
        for task in ("asr", "emotion")
    ]


def test_what_health_found_is_among_the_warnings(folder, report):
    checkpoints = folder.stage("pretrain-llsa") / "checkpoints"
    write_findings(checkpoints, [Finding("too good", 50, "accuracy 1.00")])
    try:
        found = [*report["warnings"], "pretraining llsa: from update 50 on: accuracy 1.00"]
        assert collect(folder)["warnings"] == found
    finally:
        (checkpoints / "health.json").unlink()


def test_stages_of_several_commits_are_warned_of(folder, report):
    stamps.write(folder, "gather", Stamp("key", "done", [], commit="def"))
    try:
        assert "different commits" in " ".join(collect(folder)["warnings"])
    finally:
        stamps.write(folder, "gather", Stamp("key", "done", [], commit="abc"))


def test_a_run_that_is_not_done_is_named(folder):
    kept = stamps.read(folder, "asr-llsa")
    stamps.write(folder, "asr-llsa", Stamp("key", "begun", []))
    try:
        with pytest.raises(ValueError, match="asr-llsa not done"):
            collect(folder)
    finally:
        stamps.write(folder, "asr-llsa", kept)


def test_updates_that_a_kill_made_twice_count_once(tmp_path):
    log = tmp_path / "log"
    log.write_text(
        "noise\n" + log_line(25, 6.7) + log_line(50, 6.5) + "killed\n" + log_line(25, 6.6) + log_line(75, 6.1)
    )
    points = [(point["updates"], point["loss_bits"]) for point in curve.read(log)]
    assert points == [(25, 6.6), (75, 6.1)]


@pytest.mark.parametrize(
    ("run", "name"),
    [(CHECKOUT / "runs" / "demo", "runs/demo"), (CHECKOUT.parent / "elsewhere", "RUN")],
    ids=["inside", "outside"],
)
def test_commands_are_told_from_the_checkout(run, name):
    command = f"{sys.executable} {CHECKOUT}/report.py {run}/stages --data {CHECKOUT.parent}/shared/an4"
    assert report_file.portable(command, run) == f"python report.py {name}/stages --data ../shared/an4"


# ---- RESULTS.md ----


def test_a_table_is_put_between_its_marks_and_nowhere_else(report):
    begin, end = results_file.marks("fake")
    text = f"# Results\n\n{begin}\nstale words\n{end}\n\nprose\n"
    new = results_file.with_table(text, report)
    assert new.startswith(f"# Results\n\n{begin}\n") and new.endswith(f"{end}\n\nprose\n")
    assert "stale words" not in new and for_markdown(report) in new
    assert results_file.with_table(new, report) == new


def test_a_file_without_marks_gets_the_table_at_its_end(report):
    new = results_file.with_table("# Results\n", report)
    assert new.startswith("# Results\n\n<!-- begin fake") and results_file.with_table(new, report) == new


@pytest.mark.parametrize("order", ["{1}\n{0}\n", "{0}\n", "{0}\n{0}\n{1}\n"], ids=["swapped", "one only", "twice"])
def test_broken_marks_are_refused(report, order):
    with pytest.raises(ValueError, match=r"RESULTS\.md: expected one line"):
        results_file.with_table(order.format(*results_file.marks("fake")), report)


def test_numbers_of_other_corpora_are_not_kept(report, tmp_path):
    other = report | {"corpora": report["corpora"] | {"are_others": True}}
    with pytest.raises(ValueError, match=r"--markdown: this run of fake heard asr and ser in place of"):
        results_file.store(other, tmp_path)
    assert not list(tmp_path.iterdir())


def test_results_md_says_what_the_stored_reports_say(repository):
    for path in sorted(results_file.STORE.glob("*.json")):
        text = (repository / "RESULTS.md").read_text(encoding="utf-8")
        assert results_file.with_table(text, report_file.read(path)) == text, path


def test_report_command_writes_page_and_numbers_and_prints_the_table(folder):
    result = subprocess.run(
        [sys.executable, CHECKOUT / "experiments/report.py", folder.root], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert "llsa beats untrained llsa" in result.stdout
    assert report_file.read(folder.root / "report.json")["experiment"] == "fake"
    assert (folder.root / "report.html").read_text().startswith("<!doctype html>")


@pytest.mark.parametrize("content", [None, "{}", "[]"], ids=["missing", "no format", "no report"])
def test_what_is_no_report_is_one_line_and_exit_code_2(tmp_path, content):
    path = tmp_path / "report.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ValueError, match=r"report\.json"):
        report_file.read(path)

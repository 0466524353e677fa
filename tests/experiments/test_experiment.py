# SPDX-License-Identifier: Apache-2.0
"""An experiment's file is checked when it is read, and becomes stages whose commands belong together."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from headrace_experiments import description, experiment
from headrace_experiments.corpora import Splits, check_sessions, find_splits
from headrace_experiments.plan import CHECKOUT, Plan, Speech, speech_of
from headrace_experiments.stage import RunFolder, check, needed_for

FOLDER = CHECKOUT / "experiments"
SHIPPED = sorted(path.stem for path in FOLDER.glob("*.yaml"))


def content(name="demo"):
    return yaml.safe_load((FOLDER / f"{name}.yaml").read_text())


def read(tmp_path, values):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return experiment.read(path)


def stages_of(name, tmp_path):
    one = experiment.read(FOLDER / f"{name}.yaml")
    folder = RunFolder(tmp_path / "run")
    speech = Speech(tmp_path / "asr", tmp_path / "ser", Splits("train", "dev", "test"), (name == "demo",) * 2)
    return one, {stage.name: stage for stage in Plan(one, folder, speech).stages()}


def test_both_experiments_are_shipped():
    assert {"demo", "an4_emodb"} <= set(SHIPPED)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_experiment_becomes_stages(name, tmp_path):
    one, stages = stages_of(name, tmp_path)
    check(list(stages.values()))
    for row in one.rows:
        assert f"asr-{row}" in stages and f"emotion-{row}" in stages
    assert needed_for(stages.values(), "report") == stages.keys() - {"report"}


@pytest.mark.parametrize("name", SHIPPED)
def test_configurations_and_scripts_that_stages_name_are_there(name, tmp_path):
    one, stages = stages_of(name, tmp_path)
    for stage in stages.values():
        script = Path(stage.command[1])
        assert script.is_file() or stage.command[1] == "-m"
    assert all((CHECKOUT / "pretrain/configs" / f"{p.config}.yaml").is_file() for p in one.pretraining.values())
    assert all((CHECKOUT / "downstream" / task.config).is_file() for task in one.tasks.values())


def test_pretrainings_of_a_comparison_differ_in_the_mixer_alone():
    one = experiment.read(FOLDER / "an4_emodb.yaml")
    full, llsa = one.pretraining["full"], one.pretraining["llsa"]
    assert (full.seed, full.updates, full.config) == (llsa.seed, llsa.updates, llsa.config)
    assert set(full.overrides) ^ set(llsa.overrides) == {"model.mixer=full", "model.mixer=llsa"}


def test_the_untrained_twin_does_not_wait_for_the_pretraining(tmp_path):
    _, stages = stages_of("demo", tmp_path)
    assert "pretrain-llsa" not in needed_for(stages.values(), "asr-untrained")
    assert "pretrain-llsa" in needed_for(stages.values(), "asr-llsa")


def test_the_band_is_put_on_at_export(tmp_path):
    _, stages = stages_of("an4_emodb", tmp_path)
    command = " ".join(stages["export-masked"].command)
    assert "--mixer masked --look-ahead" in command and "pretrain-full" in command


def test_hydra_overrides_are_contiguous(tmp_path):
    _, stages = stages_of("demo", tmp_path)
    command = stages["pretrain-llsa"].command
    kinds = ["=" in word for word in command[3:]]
    assert kinds == sorted(kinds, reverse=True)


def test_the_asr_configuration_names_the_splits_that_were_found(tmp_path):
    one = experiment.read(FOLDER / "demo.yaml")
    speech = Speech(tmp_path, tmp_path, Splits("train-clean-100", "dev-clean", "test-clean"), (False, False))
    plan = Plan(one, RunFolder(tmp_path / "run"), speech)
    plan.write_configs()
    written = yaml.safe_load(plan.config_path("asr").read_text())
    assert written["downstream_expert"]["datarc"] == {
        "train": ["train-clean-100"],
        "dev-clean": ["dev-clean"],
        "test-clean": ["test-clean"],
    }
    assert written["runner"]["total_steps"] == one.tasks["asr"].steps and Path(written["base"]).is_file()


def test_a_run_remembers_its_experiment(tmp_path):
    one, stages = stages_of("demo", tmp_path)
    folder = RunFolder(tmp_path)
    description.write(folder, one, {"fact": 1}, list(stages.values()))
    assert description.read(folder) == (one, {"fact": 1}, list(stages))


def change(path, value):
    """A copy of the demo with one value changed or, with ..., removed."""
    values = content()
    *parents, last = path.split("/")
    place = values
    for name in parents:
        place = place[name]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return values


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("titel", "x", "has no key 'titel'; it has name, title"),
        ("title", ..., "lacks title"),
        ("rows", ["fbank"], "rows: expected names with values, got"),
        ("main", "typo", "main: expected a row"),
        ("rows/llsa/pretrained", "typo", "rows.llsa: 'typo' is no pretraining; there are llsa"),
        ("rows/llsa/twin", "typo", "twin must name the untrained row"),
        ("rows/fbank/upstream", "fbank", "rows.fbank: upstream names one of s3prl for each of asr, emotion"),
        ("rows/fbank/untrained", "llsa", "rows.fbank: give exactly one of"),
        ("rows/untrained/seed", ..., "rows.untrained: seed belongs to untrained rows, and they need one"),
        ("pretraining/llsa/update", 3, "pretraining.llsa has no key 'update'"),
        ("tasks/speaker", {"config": "x", "seed": 1, "steps": 1, "eval_step": 1}, "tasks: expected asr and emotion"),
    ],
)
def test_a_mistake_in_the_file_is_named(tmp_path, path, value, message):
    with pytest.raises(ValueError, match=r"mine\.yaml") as mistake:
        read(tmp_path, change(path, value))
    assert message in str(mistake.value)


def make(root, *folders):
    for name in folders:
        (root / name).mkdir(parents=True)
    return root


@pytest.mark.parametrize(
    ("folders", "expected"),
    [
        (["train", "dev", "test"], Splits("train", "dev", "test")),
        (
            ["train-clean-100", "dev-clean", "dev-other", "test-clean"],
            Splits("train-clean-100", "dev-clean", "test-clean"),
        ),
    ],
    ids=["an4", "LibriSpeech"],
)
def test_split_names_are_found(tmp_path, folders, expected):
    assert find_splits(make(tmp_path, *folders)) == expected


def test_a_corpus_without_a_split_is_named_with_what_it_holds(tmp_path):
    with pytest.raises(ValueError, match=r"holds no dev split \(dev or dev-clean\); it holds test, train"):
        find_splits(make(tmp_path, "train", "test"))


def test_a_corpus_without_a_session_is_named(tmp_path):
    make(tmp_path, *(f"Session{number}/sentences" for number in (1, 2, 3, 5)))
    with pytest.raises(ValueError, match="lacks Session4/sentences"):
        check_sessions(tmp_path)


def test_real_corpora_take_the_place_of_the_synthesised(tmp_path, an4_root, emodb_root):
    one = experiment.read(FOLDER / "demo.yaml")
    folder = RunFolder(tmp_path)
    speech = speech_of(one, folder, an4_root, emodb_root)
    assert speech.is_synthesised == (False, False)
    assert "corpora" not in {stage.name for stage in Plan(one, folder, speech).stages()}


# ---- the commands ----


def run(*arguments):
    script, *rest = arguments
    return subprocess.run(
        [sys.executable, FOLDER / script, *map(str, rest)], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["typo"], "there is no 'typo'; there are an4_emodb, demo"),
        (["demo", "--asr-root", "nowhere"], "--asr-root: nowhere is no folder"),
        (["demo", "--jobs", "0"], "--jobs: expected 1 or more, got 0"),
    ],
    ids=["no such experiment", "no such corpus", "no jobs"],
)
def test_a_mistake_on_the_command_line_is_one_line_and_exit_code_2(tmp_path, arguments, message):
    result = run("run.py", *arguments, "--run-dir", tmp_path / "run")
    assert result.returncode == 2 and message in result.stderr and result.stderr.count("\n") == 1


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    result = run("run.py", "demo", "--run-dir", tmp_path)
    assert result.returncode == 2 and "holds no run but thesis.tex" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_gather_links_folders_side_by_side(tmp_path):
    make(tmp_path, "a/train", "b/Session1")
    for _ in range(2):
        result = run("gather.py", tmp_path / "all", f"asr={tmp_path / 'a/train'}", f"ser/1={tmp_path / 'b/Session1'}")
        assert result.returncode == 0
    assert (tmp_path / "all/ser/1").resolve() == tmp_path / "b/Session1"


@pytest.mark.parametrize("pair", ["asr=nowhere", "asr", "../asr=.", "/asr=."])
def test_gather_refuses_what_it_cannot_link(tmp_path, pair):
    result = run("gather.py", tmp_path / "all", pair)
    assert result.returncode == 2 and result.stderr.count("\n") == 1
    assert not (tmp_path / "asr").exists()


@pytest.mark.slow
@pytest.mark.fairseq
@pytest.mark.s3prl
def test_a_mini_experiment_runs_from_corpora_to_report_and_again_in_seconds(tmp_path):
    values = content()
    values["corpora"]["synthesise"] = {
        "train_minutes": 1,
        "dev_minutes": 0.3,
        "test_minutes": 0.3,
        "emotion_minutes": 1.5,
    }
    values["pretraining"]["llsa"] |= {"updates": 4, "overrides": ["model.mixer=llsa", "common.log_interval=1"]}
    values["tasks"]["asr"] |= {"steps": 4, "eval_step": 2}
    values["tasks"]["emotion"] |= {"steps": 2, "eval_step": 1}
    path = tmp_path / "mini.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    root = tmp_path / "run"
    first = run("run.py", path, "--run-dir", root)
    assert first.returncode == 0, first.stdout + first.stderr
    page = (root / "report.html").read_text()
    assert page.count("<svg") == 5 and 'class="bad"' in page and str(root) not in page
    shutil.rmtree(root / "stages" / "emotion-llsa")
    second = run("run.py", path, "--run-dir", root)
    assert second.returncode == 0 and "started  emotion-llsa" in second.stdout
    assert second.stdout.count("  started  ") == 2  # and the report

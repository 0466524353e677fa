# SPDX-License-Identifier: Apache-2.0
"""An experiment's file is checked when it is read, and becomes stages whose commands belong together."""

import dataclasses
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from headrace_experiments import description, experiment, report_file, results_file
from headrace_experiments.corpora import Splits, check_sessions, find_splits
from headrace_experiments.experiment import Pretraining
from headrace_experiments.plan import CHECKOUT, Plan, Speech, speech_of
from headrace_pretraining.shape import Shape, shape_of
from headrace_stages.stage import RunFolder, check

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


def needed_for(stages, name):
    """Names of the stages that a stage depends on, through any number of steps."""
    by_name = {stage.name: stage for stage in stages}
    found, waiting = set(), list(by_name[name].after)
    while waiting:
        one = waiting.pop()
        if one not in found:
            found.add(one)
            waiting += by_name[one].after
    return found


def test_three_experiments_are_shipped():
    assert {"demo", "an4_emodb", "an4_emodb_gpu"} <= set(SHIPPED)


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


@pytest.mark.parametrize("name", SHIPPED)
def test_a_twin_is_the_same_encoder_untrained(name):
    rows = experiment.read(FOLDER / f"{name}.yaml").rows
    assert all(rows[row.twin].untrained == row.pretrained for row in rows.values() if row.pretrained)


def composed(one):
    hydra = pytest.importorskip("hydra")
    configs = str(CHECKOUT / "pretrain/configs")
    with hydra.initialize_config_dir(configs, version_base="1.1"):
        return hydra.compose(one.config, ["task.data=somewhere", *one.overrides])


@pytest.mark.fairseq
@pytest.mark.parametrize("name", SHIPPED)
def test_configurations_of_pretrainings_compose_and_have_the_shape_that_is_told(name):
    for one in experiment.read(FOLDER / f"{name}.yaml").pretraining.values():
        model = composed(one).model
        told = shape_of(one.config, one.overrides, CHECKOUT / "pretrain/configs")
        assert told == Shape(model.encoder_layers, model.encoder_embed_dim, 1 + model.num_negatives)


@pytest.mark.fairseq
@pytest.mark.parametrize(
    ("config", "overrides"),
    [
        ("wav2vec2_base_librispeech", []),
        ("wav2vec2_tiny", ["recipe=sa", "model.encoder_layers=3", "model.num_negatives=7"]),
        ("wav2vec2_tiny", ["model.cross_sample_negatives=5", "model.encoder_embed_dim=8"]),
    ],
)
def test_the_shape_is_what_hydra_makes_of_it(config, overrides):
    one = Pretraining(config, 1, 1, overrides)
    model = composed(one).model
    candidates = 1 + model.num_negatives + model.cross_sample_negatives
    shape = Shape(model.encoder_layers, model.encoder_embed_dim, candidates)
    assert shape_of(one.config, one.overrides, CHECKOUT / "pretrain/configs") == shape


def test_a_configuration_that_is_not_there_is_named():
    with pytest.raises(ValueError, match=r"typo\.yaml: no such file"):
        shape_of("typo", [], CHECKOUT / "pretrain/configs")


def test_the_experiment_for_gpus_trains_longer_and_scores_the_same_rows():
    small, large = (experiment.read(FOLDER / f"{name}.yaml") for name in ("an4_emodb", "an4_emodb_gpu"))
    assert large.needs_gpu and not small.needs_gpu
    assert (large.rows, large.tasks, large.corpora) == (small.rows, small.tasks, small.corpora)
    for name, one in large.pretraining.items():
        before = small.pretraining[name]
        assert (one.config, one.seed) == (before.config, before.seed) and one.updates >= 10 * before.updates
        assert set(before.overrides) < set(one.overrides) and "common.cpu=false" in one.overrides


@pytest.mark.parametrize("name", SHIPPED)
def test_expected_seconds_are_in_proportion_to_those_that_were_measured(name):
    path = results_file.STORE / f"{name}.json"
    if not path.is_file():
        pytest.skip("it has not been measured yet")
    one, report = experiment.read(FOLDER / f"{name}.yaml"), report_file.read(path)
    taken = {}
    for stage in report["stages"]:
        kind, _, rest = stage["name"].partition("-")
        more = one.pretraining[rest].updates / report["pretraining"][rest]["updates"] if kind == "pretrain" else 1
        taken.setdefault(kind, []).append(stage["seconds"] * more)
    medians = {kind: statistics.median(seconds) for kind, seconds in taken.items()}
    shares = [seconds / medians[kind] for kind, seconds in one.expected_seconds.items() if medians.get(kind, 0) > 5]
    assert len(shares) >= 4 and max(shares) < 2 * min(shares)


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
        ("rows/llsa/twin", "typo", "twin must name an untrained row of pretraining llsa"),
        ("rows/llsa/twin", "fbank", "twin must name an untrained row of pretraining llsa"),
        ("base", 3, "base: expected the name of another file beside it, got 3"),
        ("base", "typo.yaml", "typo.yaml: no such file"),
        ("base", "mine.yaml", "has a base of its own"),
        ("rows/fbank/upstream", "fbank", "rows.fbank: upstream names one of s3prl for each of asr, emotion"),
        ("rows/fbank/untrained", "llsa", "rows.fbank: give exactly one of"),
        ("rows/untrained/seed", ..., "rows.untrained: seed belongs to untrained rows, and they need one"),
        ("pretraining/llsa/update", 3, "pretraining.llsa has no key 'update'"),
        ("tasks/speaker", {"config": "x", "seed": 1, "steps": 1, "eval_step": 1}, "tasks: expected asr and emotion"),
    ],
)
def test_a_mistake_in_the_file_is_named(tmp_path, path, value, message):
    with pytest.raises(ValueError, match=r"\.yaml") as mistake:
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


def test_a_twin_of_another_pretraining_is_refused(tmp_path):
    values = content("an4_emodb")
    values["rows"]["full"]["twin"] = "untrained"
    with pytest.raises(
        ValueError, match=r"rows\.full: twin must name an untrained row of pretraining full.*'untrained'"
    ):
        read(tmp_path, values)


def test_letters_of_another_language_reach_the_manifests_alone(tmp_path):
    one = experiment.read(FOLDER / "demo.yaml")
    speech = Speech(tmp_path, tmp_path, Splits("train", "dev", "test"), (False, False))
    english = {stage.name: stage for stage in Plan(one, RunFolder(tmp_path), speech).stages()}
    german = dataclasses.replace(one, corpora=dataclasses.replace(one.corpora, letters="german.txt"))
    for stage in Plan(german, RunFolder(tmp_path), speech).stages():
        if stage.name == "manifest-asr":
            assert f"--letters={CHECKOUT / 'german.txt'}" in stage.command and CHECKOUT / "german.txt" in stage.inputs
        else:
            assert stage == english[stage.name]


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
        (["typo"], "there is no 'typo'; there are an4_emodb, an4_emodb_gpu, demo"),
        (["demo", "--asr-root", "nowhere"], "--asr-root: nowhere is no folder"),
        (["demo", "--jobs", "0"], "--jobs: expected 1 or more, got 0"),
        (
            ["an4_emodb", "--ser-root", "elsewhere", "--markdown", "RESULTS.md"],
            "--markdown: RESULTS.md has the numbers of an4_emodb on its own corpora, but --ser-root gave others",
        ),
    ],
    ids=["no such experiment", "no such corpus", "no jobs", "other corpora in RESULTS.md"],
)
def test_a_mistake_on_the_command_line_is_one_line_and_exit_code_2(tmp_path, arguments, message):
    result = run("run.py", *arguments, "--run-dir", tmp_path / "run")
    assert result.returncode == 2 and message in result.stderr and result.stderr.count("\n") == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_an_experiment_for_gpus_is_refused_without_one(tmp_path):
    # without the check it would stop at the corpus, and not go on for days
    result = run("run.py", "an4_emodb_gpu", "--asr-root", "nowhere", "--run-dir", tmp_path / "run")
    assert result.returncode == 2 and "needs a GPU, and torch sees none; an4_emodb is sized for CPUs" in result.stderr
    assert not (tmp_path / "run").exists()


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
    root = tmp_path / "ö (1), b" / "it's = [a] 'run'"
    first = run("run.py", path, "--run-dir", root)
    assert first.returncode == 0, first.stdout + first.stderr
    assert " of 12 minutes" in first.stdout
    page = (root / "report.html").read_text()
    assert page.count("<svg") == 5 and 'class="bad"' in page and str(root) not in page
    shutil.rmtree(root / "stages" / "emotion-llsa")
    second = run("run.py", path, "--run-dir", root)
    assert second.returncode == 0 and "started  emotion-llsa" in second.stdout
    assert second.stdout.count("  started  ") == 2  # and the report

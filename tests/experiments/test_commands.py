# SPDX-License-Identifier: Apache-2.0
"""The commands of experiments/: mistakes in one line, folders that are left alone, and a whole run in miniature."""

import shutil
import subprocess
import sys

import pytest
import torch
import yaml

from headrace_experiments.plan import CHECKOUT

FOLDER = CHECKOUT / "experiments"


def run(*arguments):
    script, *rest = arguments
    return subprocess.run(
        [sys.executable, FOLDER / script, *map(str, rest)], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["typo"], "there is no 'typo'; there are an4_emodb, an4_emodb_gpu, an4_emodb_hubert, an4_emodb_mixers, demo"),
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
    for name in ("a/train", "b/Session1"):
        (tmp_path / name).mkdir(parents=True)
    for _ in range(2):
        result = run("gather.py", tmp_path / "all", f"asr={tmp_path / 'a/train'}", f"ser/1={tmp_path / 'b/Session1'}")
        assert result.returncode == 0
    assert (tmp_path / "all/ser/1").resolve() == tmp_path / "b/Session1"


@pytest.mark.parametrize("pair", ["asr=nowhere", "asr", "../asr=.", "/asr=."])
def test_gather_refuses_what_it_cannot_link(tmp_path, pair):
    result = run("gather.py", tmp_path / "all", pair)
    assert result.returncode == 2 and result.stderr.count("\n") == 1
    assert not (tmp_path / "asr").exists()


def two_iterations(tmp_path):
    """A HuBERT of a few updates; its plan is a file of the user's own."""
    plan = tmp_path / "mine.yaml"
    iterations = [{"clusters": 20, "updates": 3}, {"layer": 1, "clusters": 10, "updates": 4}]
    plan.write_text(yaml.safe_dump({"config": "hubert_tiny", "iterations": iterations}))
    return {"plan": str(plan)}


@pytest.mark.slow
@pytest.mark.fairseq
@pytest.mark.s3prl
@pytest.mark.parametrize(
    "made", [lambda _: {"config": "wav2vec2_tiny", "updates": 4}, two_iterations], ids=["wav2vec2", "hubert"]
)
def test_a_mini_experiment_runs_from_corpora_to_report_and_again_in_seconds(tmp_path, made):
    values = yaml.safe_load((FOLDER / "demo.yaml").read_text())
    values["corpora"]["synthesise"] = {
        "train_minutes": 1,
        "dev_minutes": 0.3,
        "test_minutes": 0.3,
        "emotion_minutes": 1.5,
    }
    overrides = ["model.mixer=llsa", "common.log_interval=1"]
    values["pretraining"]["llsa"] = {"seed": 1, "overrides": overrides} | made(tmp_path)
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

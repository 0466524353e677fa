# SPDX-License-Identifier: Apache-2.0
"""Runs work in folders of any name, and each choice of corpora has a folder of its own."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from headrace_experiments import experiment
from headrace_experiments.corpora import Splits
from headrace_experiments.plan import CHECKOUT, Plan, Speech, folder_name, other_corpora
from headrace_stages.hydra import hydra_value
from headrace_stages.stage import RunFolder

WAV2VEC2 = CHECKOUT / "experiments" / "an4_emodb.yaml"  # its pretraining is one command of fairseq
PLAIN = ["/speech/joerg/runs/demo", "/a b/run-1_x", "/tmp/100%/a@b.c/x+y", "/a:b/c"]
NASTY = [
    "/speech/jörg/x",
    "/a (copy)/x",
    "/a,b/x",
    "/a=b/x",
    "/it's/x",
    "/a&b/x",
    "/#1/x",
    "/[a]/x",
    "/{a}/x",
    "/~/x",
    '/"quoted"/x',
    "/back\\slash/x",
    "/back\\\\'slash'/x",
    "/ends\\",
    "/ends'",
    "/ends ",
    "/two\nlines/x",
    "/日本/x",
    "/$HOME/x",
    "/a;b/x",
]


def stages_in(root):
    speech = Speech(root / "asr", root / "ser", Splits("train", "dev", "test"), (True, True))
    return {stage.name: stage for stage in Plan(experiment.read(WAV2VEC2), RunFolder(root), speech).stages()}


@pytest.mark.fairseq
@pytest.mark.parametrize("path", PLAIN + NASTY)
def test_hydra_reads_a_path_as_it_is(path):
    parser = pytest.importorskip("hydra.core.override_parser.overrides_parser").OverridesParser.create()
    (override,) = parser.parse_overrides([f"task.data={hydra_value(Path(path))}"])
    assert override.value() == path and not override.is_sweep_override()


@pytest.mark.parametrize("path", PLAIN)
def test_a_path_that_hydra_takes_is_not_quoted(path):
    assert hydra_value(Path(path)) == path


def test_what_hydra_would_expand_is_refused():
    with pytest.raises(ValueError, match=r"Hydra would expand .* choose a folder without it$"):
        hydra_value(Path("/a/${b}"))


@pytest.mark.fairseq
@pytest.mark.parametrize("path", NASTY)
def test_a_pretraining_in_any_folder_has_overrides_that_hydra_parses(path):
    parser = pytest.importorskip("hydra.core.override_parser.overrides_parser").OverridesParser.create()
    command = stages_in(Path(path))["pretrain-llsa"].command
    overrides = list(command[3 : command.index("--config-dir")])
    read = {one.key_or_group: one.value() for one in parser.parse_overrides(overrides)}
    assert read["task.data"] == str(Path(path) / "stages/manifest-pretraining")
    assert read["hydra.run.dir"] == str(Path(path) / "stages/pretrain-llsa")


@pytest.mark.fairseq
def test_fairseq_composes_the_command_of_a_pretraining_in_a_nasty_folder(tmp_path):
    root = tmp_path / "ö (1), b" / "it's = [a]"
    root.mkdir(parents=True)
    command = stages_in(root)["pretrain-llsa"].command
    result = subprocess.run([*command, "--cfg", "job"], cwd=root, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert yaml.safe_load(result.stdout)["task"]["data"] == str(root / "stages/manifest-pretraining")
    assert command[0] == sys.executable


# ---- a folder for each choice of corpora ----


def name(*roots, experiment_name="demo"):
    one = experiment.read(CHECKOUT / "experiments" / f"{experiment_name}.yaml")
    return folder_name(one, other_corpora(one, *(root and Path(root) for root in roots)))


def test_a_run_on_the_experiments_own_corpora_is_called_after_it():
    assert name(None, None) == "demo"
    own = experiment.read(CHECKOUT / "experiments/an4_emodb.yaml").corpora
    assert name(CHECKOUT / own.asr, CHECKOUT / own.ser, experiment_name="an4_emodb") == "an4_emodb"


def test_each_choice_of_corpora_has_a_folder_of_its_own(tmp_path):
    choices = [
        (None, None),
        ("/x/an4", None),
        (None, "/x/an4"),
        ("/y/an4", None),
        ("/x/an4", "/x/emodb"),
        ("/x/a(n)4 ö", "/x/emodb"),
    ]
    names = [name(*choice) for choice in choices]
    assert len(set(names)) == len(names)
    assert names[4].startswith("demo-an4-emodb-") and names[5].startswith("demo-a_n_4_-emodb-")
    assert name("/x/an4", "/x/emodb") == names[4]


def test_a_relative_root_is_the_same_corpus(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert name("an4", None) == name(tmp_path / "an4", None)


def test_a_second_choice_of_corpora_leaves_the_first_run_alone(tmp_path, monkeypatch):
    """What `make demo` made is whole after `make demo ASR_ROOT=... SER_ROOT=...`."""
    script = [sys.executable, "-c", PREPARE.format(folder=str(CHECKOUT / "experiments"), runs=str(tmp_path))]
    for folder in [*(f"x/asr/{split}" for split in ("train", "dev", "test"))]:
        (tmp_path / folder).mkdir(parents=True)
    for number in range(1, 6):
        (tmp_path / f"x/ser/Session{number}/sentences").mkdir(parents=True)
    roots = [["--asr-root", str(tmp_path / "x/asr")], ["--ser-root", str(tmp_path / "x/ser")], []]
    said = [
        subprocess.run([*script, "demo", *more], capture_output=True, text=True, check=True).stdout.split()[-1]
        for more in roots
    ]
    assert len(set(said)) == 3 and said[2] == "demo"
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == sorted(said)


PREPARE = """
import sys
sys.path.insert(0, {folder!r})
import run
from pathlib import Path
from headrace_experiments import plan
root, run.CHECKOUT = run.CHECKOUT, Path({runs!r})
run.find = lambda name: root / "experiments" / (name + ".yaml")
scheduler, folder = run.prepare(run.parser().parse_args(sys.argv[1:]))
print(folder.root.name)
"""

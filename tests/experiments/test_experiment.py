# SPDX-License-Identifier: Apache-2.0
"""An experiment's file is checked when it is read, and becomes stages whose commands belong together."""

import dataclasses
import shutil
import statistics
from pathlib import Path

import pytest
import yaml

from headrace_experiments import description, experiment, report_file, results_file
from headrace_experiments.corpora import Splits, check_sessions, find_splits
from headrace_experiments.experiment import Pretraining
from headrace_experiments.plan import CHECKOUT, Plan, Speech, speech_of
from headrace_pretraining.shape import CONFIGS, Shape, encoder_of, files_of, section_of, shape_of
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


def test_four_experiments_are_shipped():
    assert {"demo", "an4_emodb", "an4_emodb_hubert", "an4_emodb_gpu"} <= set(SHIPPED)


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
    assert all((CHECKOUT / "pretrain/configs" / f"{p.configuration}.yaml").is_file() for p in one.pretraining.values())
    assert all((CHECKOUT / "downstream" / task.config).is_file() for task in one.tasks.values())


def test_pretrainings_of_a_comparison_differ_in_the_mixer_alone():
    one = experiment.read(FOLDER / "an4_emodb.yaml")
    full, llsa = one.pretraining["full"], one.pretraining["llsa"]
    assert (full.seed, full.updates, full.config) == (llsa.seed, llsa.updates, llsa.config)
    assert set(full.overrides) ^ set(llsa.overrides) == {"model.mixer=full", "model.mixer=llsa"}


@pytest.mark.parametrize("name", SHIPPED)
def test_a_twin_is_the_same_encoder_untrained(name):
    one = experiment.read(FOLDER / f"{name}.yaml")
    encoders = {part: encoder_of(of.configuration, of.overrides, CONFIGS) for part, of in one.pretraining.items()}
    pretrained = [row for row in one.rows.values() if row.pretrained]
    twins = [(row.pretrained, one.rows[row.twin].untrained) for row in pretrained if row.twin]
    assert pretrained and all(row.twin or row.beside for row in pretrained)
    assert all(encoders[first] == encoders[second] for first, second in twins)


def test_the_hubert_table_has_the_rows_of_the_wav2vec2_table_and_two_more():
    both = {name: experiment.read(FOLDER / f"{name}.yaml") for name in ("an4_emodb", "an4_emodb_hubert")}
    small, large = both.values()
    assert large.rows.items() > small.rows.items() and large.pretraining.items() > small.pretraining.items()
    assert (large.tasks, large.corpora) == (small.tasks, small.corpora)
    full, llsa = large.pretraining["hubert_full"], large.pretraining["hubert_llsa"]
    assert (full.seed, full.plan) == (llsa.seed, llsa.plan)
    assert set(full.overrides) ^ set(llsa.overrides) == {"model.mixer=full", "model.mixer=llsa"}


def composed(one):
    hydra = pytest.importorskip("hydra")
    configs = str(CHECKOUT / "pretrain/configs")
    with hydra.initialize_config_dir(configs, version_base="1.1"):
        return hydra.compose(one.configuration, ["task.data=somewhere", *one.overrides])


@pytest.mark.fairseq
@pytest.mark.parametrize("name", SHIPPED)
def test_configurations_of_pretrainings_compose_and_have_the_shape_that_is_told(name):
    for one in experiment.read(FOLDER / f"{name}.yaml").pretraining.values():
        model = composed(one).model
        told = shape_of(one.configuration, one.overrides, CHECKOUT / "pretrain/configs")
        candidates = 1 + model.num_negatives if "num_negatives" in model else None
        assert told == Shape(model.encoder_layers, model.encoder_embed_dim, candidates)


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
    one = Pretraining(1, config, 1, overrides=overrides)
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
        more = one.pretraining[rest].all_updates / report["pretraining"][rest]["updates"] if kind == "pretrain" else 1
        kind = "hubert" if kind == "pretrain" and one.pretraining[rest].plan else kind
        taken.setdefault(kind, []).append(stage["seconds"] * more)
    medians = {kind: statistics.median(seconds) for kind, seconds in taken.items()}
    long = {kind: seconds for kind, seconds in medians.items() if seconds > 5}
    shares = [one.expected_seconds[kind] / seconds for kind, seconds in long.items() if kind in one.expected_seconds]
    assert long.keys() - one.expected_seconds.keys() <= {"begin"}  # of reports from before untrained.py
    assert {"asr", "emotion", "hubert" if "hubert" in taken else "pretrain"} <= long.keys()
    assert len(shares) >= 3 and max(shares) < 2 * min(shares)


def test_every_encoder_of_the_mixers_is_certified_and_stands_beside_attention(tmp_path):
    one, stages = stages_of("an4_emodb_mixers", tmp_path)
    mixers = ["full", "sa", "llsa", "chunked", "deformable", "none", "summary"]
    assert [row.pretrained for row in one.rows.values() if row.pretrained] == mixers
    encoders = [*mixers, "untrained"]
    assert {f"latency-{encoder}" for encoder in encoders} == {name for name in stages if name.startswith("latency-")}
    assert len({(p.plan, p.seed) for p in one.pretraining.values()}) == 1  # the same updates for all
    beside = {name: row.beside for name, row in one.rows.items() if row.pretrained}
    assert beside == {
        **dict.fromkeys(["full", "sa", "llsa"], "fbank"),
        **dict.fromkeys(["deformable", "none", "summary"], "chunked"),
        "chunked": None,
    }


@pytest.mark.parametrize(
    ("overrides", "recipe"), [([], "llsa"), (["recipe=conformer", "model.hop=8"], "conformer")], ids=["plain", "recipe"]
)
def test_a_configuration_is_told_by_the_files_that_it_is_composed_of(tmp_path, overrides, recipe):
    configs = Path(shutil.copytree(CONFIGS, tmp_path / "configs"))
    files = files_of("hubert_tiny", overrides, configs)
    names = {"hubert_tiny", "hubert_base_librispeech", f"recipe/{recipe}", "size/tiny_hubert", "size/tiny"}
    assert {str(path.relative_to(configs).with_suffix("")) for path in files} == names
    whole = section_of("hubert_tiny", overrides, configs, "model")
    for path in {*configs.rglob("*.yaml")} - {*files}:
        path.unlink()
    assert section_of("hubert_tiny", overrides, configs, "model") == whole


@pytest.mark.parametrize("beside", ["typo", "llsa"], ids=["unknown", "itself"])
def test_a_row_stands_beside_another_one(tmp_path, beside):
    values = content("demo")
    values["rows"]["llsa"]["beside"] = beside
    with pytest.raises(ValueError, match=rf"rows.llsa: beside must name another row, got '{beside}'"):
        read(tmp_path, values)


def test_the_labels_of_each_iteration_are_measured_on_the_corpus_that_has_transcripts(tmp_path):
    _, stages = stages_of("an4_emodb_hubert", tmp_path)
    measured = {name for name in stages if name.startswith("information-")}
    assert measured == {f"information-hubert_{mixer}-{number}" for mixer in ("full", "llsa") for number in (1, 2)}
    command = stages["information-hubert_llsa-2"].command
    assert Path(command[4]) == tmp_path / "run/stages/pretrain-hubert_llsa/stages/labels-2"
    assert Path(command[5]) == tmp_path / "asr/train"


def test_the_untrained_twin_does_not_wait_for_the_pretraining(tmp_path):
    _, stages = stages_of("demo", tmp_path)
    assert "pretrain-llsa" not in needed_for(stages.values(), "asr-untrained")
    assert "pretrain-llsa" in needed_for(stages.values(), "asr-llsa")


def test_an_untrained_twin_on_log_mels_has_the_statistics_of_the_pretraining(tmp_path):
    values = content("demo")
    for one in values["pretraining"].values():
        one["overrides"] = [*one.get("overrides", []), "model.mixer=full", "model.frontend=log_mel"]
    one = read(tmp_path, values)
    name, row = next((name, row) for name, row in one.rows.items() if row.untrained)
    speech = Speech(tmp_path / "asr", tmp_path / "ser", Splits("train", "dev", "test"), (True, True))
    stages = {stage.name: stage for stage in Plan(one, RunFolder(tmp_path / "run"), speech).stages()}
    export = stages[f"export-{name}"]
    data = str(tmp_path / "run" / "stages" / "manifest-pretraining")
    assert export.command[-2:] == ("--data", data) and "manifest-pretraining" in export.after
    assert f"common.seed={one.pretraining[row.untrained].seed}" in export.command


def test_the_band_is_put_on_at_export(tmp_path):
    _, stages = stages_of("an4_emodb", tmp_path)
    command = " ".join(stages["export-masked"].command)
    assert "--mixer masked --look-ahead" in command and "pretrain-full" in command


@pytest.mark.parametrize("name", ["demo", "an4_emodb"])
def test_hydra_overrides_are_contiguous(tmp_path, name):
    _, stages = stages_of(name, tmp_path)
    kinds = ["=" in word for word in stages["pretrain-llsa"].command[3:]]
    assert kinds == sorted(kinds, reverse=True) and any(kinds)


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
        ("rows/llsa/twin", "typo", "twin must name an untrained row with the encoder of pretraining llsa"),
        ("rows/llsa/twin", "fbank", "twin must name an untrained row with the encoder of pretraining llsa"),
        ("pretraining/llsa/config", "hubert_tiny", "pretraining.llsa: give config and updates, or plan"),
        ("pretraining/llsa/plan", "typo", "typo.yaml: no such plan; there are hubert_base_librispeech"),
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
        ValueError,
        match=r"rows\.full: twin must name an untrained row with the encoder of pretraining full.*'untrained'",
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

# SPDX-License-Identifier: Apache-2.0
"""Two iterations of HuBERT by one command: whole, gone on with after a kill, not made twice."""

import json
import os
import random
import runpy
import signal
import subprocess
import sys
import time
from itertools import pairwise

import numpy as np
import pytest
import soundfile
import torch
import yaml

pytest.importorskip("kaldi_native_fbank", reason="kaldi-native-fbank is not installed")
from headrace import checkpoint
from headrace_pretraining import iterations
from headrace_pretraining.iterations import read_plan
from headrace_stages.stage import RunFolder

pytestmark = pytest.mark.fairseq

MFCC = {"clusters": 5, "updates": 4}

STAGES = ["features-1", "kmeans-1", "labels-1", "train-1", "features-2", "kmeans-2", "labels-2", "train-2", "export"]


def run(line):
    return subprocess.run(line, capture_output=True, text=True, check=False, timeout=600)


def test_two_iterations_end_in_a_folder_and_nothing_is_made_twice(hubert_command, tmp_path):
    done = run(hubert_command())
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    encoder = checkpoint.load(tmp_path / "run" / "stages" / "export" / "encoder")
    assert encoder.config.mixer == "llsa"
    note = json.loads((tmp_path / "run" / "stages" / "labels-2" / "train.km.json").read_text())
    assert (note["features"], note["num_clusters"]) == ("layer 1", 6)
    again = run(hubert_command())
    assert [line.split()[1] for line in again.stdout.splitlines() if line.startswith("  whole")] == STAGES
    assert "started" not in again.stdout


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["features-2", "labels-2"])
def test_a_corpus_that_was_edited_between_iterations_ends_the_run_in_one_line(
    hubert_command, tmp_path, corpus_of, stage
):
    data = corpus_of(tmp_path / "edited", {"train": [1.0] * 8, "valid": [0.6, 0.7]})
    line = [str(data) if before == "--data" else word for before, word in pairwise(["", *hubert_command()])]
    assert run(line).returncode == 0
    soundfile.write(data / "audio" / "train0.flac", np.zeros(12000), 16000)
    (tmp_path / "run" / "stamps" / f"{stage}.json").unlink()
    done = run(line)
    assert done.returncode != 0
    assert f"stage {stage} " in done.stderr and "12000 samples, its manifest says 16000" in done.stderr


def test_a_dry_run_tells_everything_and_does_nothing(hubert_command, tmp_path):
    done = run(hubert_command("run", "--dry-run"))
    assert done.returncode == 0, done.stderr
    told = [line.partition(":")[0] for line in done.stdout.splitlines() if not line.startswith(" ")]
    assert told[1:-2] == STAGES
    assert "iteration 2: 6 clusters of layer 1 of iteration 1, 4 updates" in done.stdout
    assert "GB of disk" in done.stdout
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_killed_twenty_times_it_ends_whole(hubert_command, tmp_path):
    draw = random.Random(1)
    for _ in range(20):
        process = subprocess.Popen(hubert_command(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(draw.uniform(0.5, 8.0))
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    done = run(hubert_command())
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    undisturbed = run(hubert_command("undisturbed"))
    assert undisturbed.returncode == 0
    for name in ("labels-1/train.km", "labels-2/train.km", "export/encoder/model.safetensors"):
        first, second = ((tmp_path / where / "stages" / name).read_bytes() for where in ("run", "undisturbed"))
        assert first == second, name


@pytest.mark.slow
def test_two_processes_make_a_model_too(hubert_command, tmp_path):
    done = run(hubert_command("run", "--processes", "2"))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert not (tmp_path / "run" / "stages" / "features-1").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"config": "typo"}, "config: expected the name of a file in pretrain/configs, got 'typo'"),
        ({"iterations": []}, "expected a list of one or more"),
        ({"iterations": [{"layer": 3, "clusters": 5, "updates": 4}]}, "there is no encoder yet"),
        ({"iterations": [{"clusters": 1, "updates": 4}]}, r"iterations\[0\].clusters: expected a whole number of 2 or"),
        ({"iterations": [{"clusters": 100.0, "updates": 4}]}, r"iterations\[0\].clusters: .*, got 100.0"),
        ({"iterations": [{"clusters": 5, "updates": "1e5"}]}, r"iterations\[0\].updates: .*in digits, got '1e5'"),
        ({"iterations": [{"clusters": 5, "updates": True}]}, r"iterations\[0\].updates: .*, got True"),
        ({"iterations": [{"clusters": 5}]}, r"iterations\[0\].updates: expected a whole number of 1 or .*got nothing"),
        ({"iterations": [MFCC, {**MFCC, "layer": -1}]}, r"iterations\[1\].layer: expected a whole number of 0 or .*-1"),
        (
            {"iterations": [MFCC, {**MFCC, "layer": 1.0}]},
            r"iterations\[1\].layer: expected a whole number of 0 or .*1.0",
        ),
        ({"iterations": [{**MFCC, "share": 1.5}]}, r"iterations\[0\].share: expected -1 for all, or .* got 1.5"),
        ({"iterations": [{**MFCC, "share": "all"}]}, r"iterations\[0\].share: expected -1 for all, or .* got 'all'"),
        ({"speed": {"update": "0.5 s"}}, "speed.update: expected seconds, a number above 0, .* got '0.5 s'"),
        ({"speed": {"mfcc": True}}, "speed.mfcc: expected seconds, a number above 0, .* got True"),
        ({"iterations": [{"cluster": 5, "updates": 4}]}, r"iterations\[0\]: expected clusters, updates"),
        ({"epochs": 3}, "expected the keys config, iterations and speed"),
    ],
    ids=str,
)
def test_a_mistake_in_a_plan_is_named(hubert_plan, change, said):
    hubert_plan.write_text(yaml.safe_dump(yaml.safe_load(hubert_plan.read_text()) | change))
    with pytest.raises(ValueError, match=said) as error:
        read_plan(hubert_plan)
    assert str(hubert_plan) in str(error.value)


@pytest.fixture
def prepared(repository, tmp_path):
    """What hubert.py makes of its arguments before anything starts."""
    hubert = runpy.run_path(str(repository / "pretrain" / "hubert.py"))

    def prepare(*arguments):
        where = ["--data", str(tmp_path), "--dest", str(tmp_path / "run")]
        return hubert["prepare"](hubert["parser"]().parse_intermixed_args([*where, *map(str, arguments)]))

    return prepare


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["optimization.max_update=9"], r"optimization.max_update: expected no override, as the plan .* \(updates\)"),
        (["task.label_rate=50"], "task.label_rate: .* follows from what an iteration clusters"),
        (["task.label_dir=labels"], "task.label_dir: .* --dest"),
        (["task.data=data"], "task.data: .* --data"),
        (["hydra.run.dir=run"], "hydra.run.dir: .* --dest"),
        (["++checkpoint.save_dir=there"], r"checkpoint.save_dir: .* got '\+\+checkpoint.save_dir=there'"),
        (
            ["distributed_training.distributed_world_size=2"],
            "distributed_training.distributed_world_size: .* --processes",
        ),
        (["+distributed=cpu_torchrun"], "distributed: .* --processes"),
        (["task.sample_rate=8000"], "task.sample_rate: expected 16000, .* got 8000; leave it out"),
        (["++task.sample_rate=8000"], "task.sample_rate: expected 16000, .* got 8000; leave it out"),
    ],
    ids=str,
)
def test_an_override_that_cannot_hold_is_refused_before_anything_starts(prepared, hubert_plan, overrides, said):
    with pytest.raises(ValueError, match=said):
        prepared(hubert_plan, *overrides)


@pytest.mark.parametrize(
    ("layer", "overrides", "most"),
    [
        (5, [], 4),
        (3, ["model.encoder_layers=2"], 2),
        (3, ["++model.encoder_layers=2"], 2),
        (4, [], None),
        (5, ["model.encoder_layers=6"], None),
        (5, ["++model.encoder_layers=6"], None),
        (0, ["task.sample_rate=16000"], None),
    ],
    ids=str,
)
def test_a_layer_is_one_of_the_encoder_that_the_overrides_make(prepared, hubert_plan, layer, overrides, most):
    hubert_plan.write_text(yaml.safe_dump({"config": "hubert_tiny", "iterations": [MFCC, {**MFCC, "layer": layer}]}))
    if most is None:
        assert prepared(hubert_plan, *overrides).plan.iterations[1].layer == layer
    else:
        with pytest.raises(ValueError, match=rf"plan: iterations\[1\].layer: expected 0 to {most}, .* got {layer}"):
            prepared(hubert_plan, *overrides)


@pytest.mark.parametrize(
    ("gpus", "processes", "overrides", "is_refused"),
    [
        (2, 3, ["common.cpu=false"], True),
        (2, 2, ["common.cpu=false"], False),
        (2, 3, [], False),  # hubert_tiny trains on CPUs
        (0, 3, ["common.cpu=false"], False),
    ],
)
def test_more_processes_than_gpus_are_refused_where_they_train(
    prepared, hubert_plan, monkeypatch, gpus, processes, overrides, is_refused
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    arguments = (hubert_plan, *overrides, "--processes", processes)
    if is_refused:
        with pytest.raises(ValueError, match=r"--processes: expected 2 or fewer, .* got 3"):
            prepared(*arguments)
    else:
        assert prepared(*arguments).processes == processes


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--machines", 2], "--meet: expected HOST:PORT of machine 0, as --machines 2 is given, got nothing"),
        (["--machine", 1], "--meet: expected HOST:PORT of machine 0, as --machine 1 is given, got nothing"),
        (["--meet", "node17:29400"], "--machines: expected 2 or more with --meet, got 1"),
        (["--machines", 2, "--meet", "node17"], "--meet: expected HOST:PORT of machine 0, .* got 'node17'"),
        (["--machines", 2, "--machine", 2, "--meet", "node17:29400"], "--machine: expected 0 to 1, .* got 2"),
    ],
    ids=str,
)
def test_options_of_machines_that_do_not_go_together_are_refused(prepared, hubert_plan, options, said):
    with pytest.raises(ValueError, match=said):
        prepared(hubert_plan, *options)


def test_on_many_machines_every_stage_but_the_export_is_for_all(prepared, hubert_plan, minute_corpus):
    machines = ("--processes", 2, "--machines", 3, "--machine", 1, "--meet", "node17:29400")
    built = prepared(hubert_plan, "--data", minute_corpus, *machines)
    assert built.processes == 6
    assert built.folder.machine == 1
    led = [stage.name for stage in built.stages() if "node17:29400" in stage.command]
    assert led == [name for name in STAGES if not name.startswith(("features", "export"))]


@pytest.mark.parametrize("name", ["hubert_base_librispeech", "hubert_tiny"])
def test_shipped_plans_are_two_iterations(repository, minute_corpus, tmp_path, name):
    plan = read_plan(repository / "pretrain" / "plans" / f"{name}.yaml")
    assert [one.layer is None for one in plan.iterations] == [True, False]
    built = iterations.Iterations(plan, RunFolder(tmp_path / "run"), minute_corpus, [])
    assert [stage.name for stage in built.stages()] == STAGES


@pytest.mark.parametrize(
    ("name", "processes", "has_gpus", "overrides", "layout"),
    [
        ("hubert_base_librispeech", 1, True, [], ["distributed_training.distributed_world_size=1", 32]),
        ("hubert_base_librispeech", 8, True, [], ["distributed_training.distributed_world_size=8", 4]),
        ("hubert_base_librispeech", 8, False, [], ["+distributed=cpu_torchrun", 4]),
        ("hubert_base_librispeech", 32, True, [], ["distributed_training.distributed_world_size=32", 1]),
        ("hubert_tiny", 2, True, [], ["+distributed=cpu_torchrun", 1]),
        ("hubert_tiny", 2, True, ["common.cpu=false"], ["distributed_training.distributed_world_size=2", 1]),
        ("hubert_tiny", 1, False, [], ["distributed_training.distributed_world_size=1", 1]),
    ],
)
def test_a_recipe_is_spread_over_the_processes(
    repository, minute_corpus, tmp_path, name, processes, has_gpus, overrides, layout
):
    plan, folder = read_plan(repository / "pretrain" / "plans" / f"{name}.yaml"), RunFolder(tmp_path / "run")
    built = iterations.Iterations(plan, folder, minute_corpus, overrides, processes, has_gpus)
    train = next(stage for stage in built.stages() if stage.name == "train-1").command
    assert layout[0] in train
    assert f"optimization.update_freq=[{layout[1]}]" in train


@pytest.mark.parametrize(
    ("name", "overrides", "rate"),
    [
        ("hubert_base_librispeech", [], 50),
        ("hubert_tiny", [], 50),
        ("hubert_tiny", ["model.frontend=log_mel"], 25),
        ("hubert_tiny", ["model.frontend=log_mel", "model.mel_channels=[8]"], 50),
        ("hubert_tiny", ["model.conv_feature_layers='[(8,10,5),(8,8,8),(8,4,4)]'"], 100),
    ],
    ids=str,
)
def test_labels_of_a_layer_have_the_rate_of_the_encoder(repository, minute_corpus, tmp_path, name, overrides, rate):
    plan, folder = read_plan(repository / "pretrain" / "plans" / f"{name}.yaml"), RunFolder(tmp_path / "run")
    stages = {stage.name: stage for stage in iterations.Iterations(plan, folder, minute_corpus, overrides).stages()}
    assert "task.label_rate=100" in stages["train-1"].command
    assert f"task.label_rate={rate}" in stages["train-2"].command


@pytest.mark.slow
def test_two_iterations_on_log_mel_measure_each_their_own_statistics(hubert_command, tmp_path):
    on_log_mel = ["model.frontend=log_mel", "model.num_mels=20", "model.mel_channels=[6,4]"]
    done = run(hubert_command("run", *on_log_mel))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    encoder = checkpoint.load(tmp_path / "run" / "stages" / "export" / "encoder")
    assert encoder.frontend.stride_samples == 640 and float(encoder.frontend.log_mel.mean.abs().min()) > 0
    note = json.loads((tmp_path / "run" / "stages" / "labels-2" / "train.km.json").read_text())
    assert note["label_rate"] == 25


def test_a_plan_that_is_not_there_is_told_the_others(repository, minute_corpus, tmp_path):
    script = repository / "pretrain" / "hubert.py"
    done = run([sys.executable, str(script), "typo", "--data", str(minute_corpus), "--dest", str(tmp_path / "run")])
    assert done.returncode == 2
    assert "there are hubert_base_librispeech, hubert_demo, hubert_first, hubert_tiny" in done.stderr

# SPDX-License-Identifier: Apache-2.0
"""Training in several processes: started by torch's own launchers, on CPUs with gloo, and on GPUs where there are."""

import json
import re
import subprocess
import sys
from collections import defaultdict
from datetime import timedelta

import pytest
import torch
from torch import distributed, nn
from torch.distributed.utils import _to_kwargs

import headrace
import run
from headrace import checkpoint
from headrace_downstream import checkpoints, compat, processes
from headrace_downstream.corpora import HERE
from headrace_downstream.processes import ALONE, Processes, Records, data_parallel

pytestmark = [pytest.mark.s3prl, pytest.mark.filterwarnings("ignore")]  # s3prl and what it imports warn of many things

LAUNCHERS = {"launch": "torch.distributed.launch", "torchrun": "torch.distributed.run"}  # --local-rank; LOCAL_RANK
SHORT = "config.runner.total_steps=4,,config.runner.eval_step=2,,config.runner.save_step=2,,config.runner.log_step=4"


@pytest.fixture(autouse=True)
def installed():
    compat.install()  # checkpoints are read here too


def start(launcher, number, *argv):
    """Run run.py in so many processes; returns what all of them printed together."""
    command = [sys.executable, "-P", "-m", LAUNCHERS[launcher], "--standalone", "--nproc-per-node", str(number)]
    command += [HERE / "run.py", *argv]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(list(map(str, command)), cwd="/", **pipes) as launched:
        try:
            said = launched.communicate(timeout=600)[0]
        except subprocess.TimeoutExpired:
            launched.terminate()  # which the launcher hands on to its processes
            pytest.fail(f"hangs: {launched.communicate()[0]}")
    return launched.returncode, said


def a_tiny_encoder(folder):
    torch.manual_seed(0)
    conv = [[16, 10, 5], [16, 8, 8], [16, 8, 8]]
    shape = {"num_layers": 2, "embed_dim": 16, "ffn_dim": 32, "num_heads": 2, "look_ahead": 1, "look_back": 4}
    checkpoint.save(headrace.SpeechEncoder(headrace.EncoderConfig(mixer="llsa", conv_layers=conv, **shape)), folder)
    return folder


def test_two_processes_train_emotion_folds_and_one_of_them_scores(emotion_corpus, tmp_path):
    """The featurizer learns weights of three layers, and features are kept by both processes."""
    expdir, (root, manifests) = tmp_path / "exp", emotion_corpus
    line = f"-m train,evaluate --folds 1,2 -u headrace_local -k {a_tiny_encoder(tmp_path / 'encoder')} -d emotion"
    line += f" -c {HERE}/emotion/config_tiny.yaml -p {expdir} --data {root} --manifests {manifests}"
    line += f" --feature-cache {tmp_path / 'features'} --device cpu -o {SHORT}"
    code, said = start("launch", 2, *line.split())
    assert code == 0, said
    assert said.count("trained in ") == 2 and said.count("95 % by speaker") == 2 * 3, "the leader alone says it"
    for fold in ("fold1", "fold2"):
        states = checkpoints.load(expdir / fold / "states-4.ckpt")
        assert states["WorldSize"] == 2 and states["Featurizer"]["weights"].shape == (3,)
        assert json.loads((expdir / fold / "settings.json").read_text())["processes"] == 2
    score = json.loads((expdir / "score.json").read_text())
    assert score["num_utterances"] == 16 and score["run"]["processes"] == 2


def asr_line(corpus, expdir, device):
    line = f"-m train,evaluate -u fbank -d asr -c {HERE}/asr/config_tiny.yaml -p {expdir} --data {corpus[0]}"
    return f"{line} --manifests {corpus[1]} --device {device} -o {SHORT}".split()


@pytest.mark.slow
def test_as_many_processes_as_before_go_on_and_others_are_refused(asr_corpus, tmp_path):
    expdir = tmp_path / "exp"
    code, said = start("torchrun", 2, *asr_line(asr_corpus, expdir, "cpu"))
    assert code == 0, said
    assert json.loads((expdir / "score.json").read_text())["num_utterances"] == 8

    code, said = start("torchrun", 2, *asr_line(asr_corpus, expdir, "cpu"))
    assert code == 0, said
    assert said.count("already trained") == 1, "the same line again has nothing left to train"

    longer = ["-m", "train", "-e", expdir, "-o", "config.runner.total_steps=6", "--device", "cpu"]
    code, said = start("torchrun", 2, *longer)
    assert code == 0, said
    assert checkpoints.load(expdir / "states-6.ckpt")["WorldSize"] == 2

    assert run.main(list(map(str, longer))) == 2
    code, said = start("torchrun", 3, *longer)
    assert code != 0
    assert re.search(r"run.py: -e .*was trained with torchrun --nproc-per-node 2, came with .* 3: .* go on with", said)


@pytest.mark.slow
@pytest.mark.gpu
def test_a_process_a_gpu_trains_and_one_of_them_scores(asr_corpus, tmp_path):
    number = torch.cuda.device_count()
    code, said = start("launch", number, *asr_line(asr_corpus, tmp_path / "exp", "cuda"))
    assert code == 0, said
    assert checkpoints.load(tmp_path / "exp" / "states-4.ckpt")["WorldSize"] == number
    assert json.loads((tmp_path / "exp" / "score.json").read_text())["num_utterances"] == 8


def test_a_process_that_no_launcher_started_is_alone(monkeypatch):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    found = processes.find(None, None, "cpu")
    assert found is ALONE and found.is_leader and found.flags() == [] and found.number_if_launched is None
    found.meet("anywhere")


@pytest.mark.parametrize("by_flag", [True, False])
def test_half_a_launchers_environment_is_refused(monkeypatch, by_flag):
    for name in (*processes.GIVEN_BY_LAUNCHERS, "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    if not by_flag:
        monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(ValueError, match=r"--local-rank 1 .*RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT are not; start"):
        processes.find(1 if by_flag else None, None, "cpu")


@pytest.mark.parametrize(
    ("device", "line"),
    [("cuda:1", "--device cuda:1: .* give --device cuda"), ("cuda", "has 1 GPUs; start 1 processes at most")],
)
def test_processes_take_a_gpu_each(monkeypatch, device, line):
    for name in processes.GIVEN_BY_LAUNCHERS:
        monkeypatch.setenv(name, "1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ValueError, match=line):
        processes.find(1, None, device)


def test_others_wait_for_the_leader(monkeypatch):
    store = distributed.HashStore()
    leader, other = (Processes(rank, rank, 2, "gloo", store) for rank in (0, 1))
    assert leader.flags() == ["--local_rank", "0", "--backend", "gloo"]
    leader.meet("here")
    other.meet("here")
    monkeypatch.setattr(processes, "PATIENCE", timedelta(seconds=0.1))
    with pytest.raises(distributed.DistStoreError):
        other.meet("there")


@pytest.fixture
def group_of_one():
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def test_a_buffer_that_an_expert_put_elsewhere_is_not_sent_at_a_forward(group_of_one, monkeypatch):
    """s3prl's experts replace their buffer best_score by a CPU tensor, and rank 0 evaluates alone."""
    model = nn.Linear(2, 1)
    model.register_buffer("best_score", torch.zeros(1))
    wrapped = data_parallel(model, device_ids=[0], find_unused_parameters=True)
    model.best_score = torch.zeros(1, device="meta")
    wrapped(torch.ones(1, 2)).sum().backward()
    monkeypatch.setattr(wrapped, "_sync_buffers", pytest.fail)
    with torch.no_grad():
        wrapped.eval()(torch.ones(1, 2))


def test_records_reach_a_module_on_a_gpu_as_they_are():
    """By the function that DDP moves arguments with; it rebuilds every dict and cannot rebuild a defaultdict."""
    with pytest.raises(TypeError, match="first argument must be callable"):
        _to_kwargs((), {"records": defaultdict(list, loss=[1.0])}, torch.device("cpu"), False)
    records = Records(list)
    for _ in range(2):
        (moved,) = _to_kwargs((), {"records": records}, torch.device("cpu"), False)[1]
        moved["records"]["loss"].append(1.0)
        moved["records"]["names"] += ["a"]
    assert dict(records) == {"loss": [1.0, 1.0], "names": ["a", "a"]}


def test_the_launchers_flag_is_read_in_both_spellings():
    for flag in ("--local-rank=1", "--local_rank=1"):
        options = run.read_arguments(["-m", "train", flag, "--backend", "gloo", "--seed", "3"])
        assert (options.local_rank, options.backend, options.rest) == (1, "gloo", ("--seed", "3"))

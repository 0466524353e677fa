# SPDX-License-Identifier: Apache-2.0
"""hubert.py on two machines makes what it makes on one with as many processes, and outlives the loss of one of them."""

import subprocess
import time

import pytest

pytest.importorskip("kaldi_native_fbank", reason="kaldi-native-fbank is not installed")
from headrace_stages.machines import free_port

pytestmark = [pytest.mark.fairseq, pytest.mark.slow]

MADE = ("kmeans-1/km.safetensors", "labels-1/train.km", "labels-2/train.km", "export/encoder/model.safetensors")
PATIENCE_SECONDS = 500


@pytest.fixture
def start(hubert_command):
    """Start one of two machines, each a process with children of its own; all are ended in the end."""
    started, port = [], free_port()

    def machine(number, name="run"):
        where = ("--machines", "2", "--machine", str(number), "--meet", f"127.0.0.1:{port}")
        line = hubert_command(name, *where)
        process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        started.append(process)
        return process

    yield machine
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.fixture
def one_machine(hubert_command, tmp_path):
    """What one machine makes in two processes."""
    done = subprocess.run(
        hubert_command("one", "--processes", "2"), capture_output=True, text=True, check=False, timeout=PATIENCE_SECONDS
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return {name: (tmp_path / "one" / "stages" / name).read_bytes() for name in MADE}


def until(exists, processes):
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not exists():
        assert all(one.poll() is None for one in processes), [one.communicate()[0][-3000:] for one in processes]
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)


@pytest.fixture
def make_the_same(one_machine, tmp_path):
    """Assert that all machines end well and made what one machine makes."""

    def check(*processes):
        for number, process in enumerate(processes):
            said, _ = process.communicate(timeout=PATIENCE_SECONDS)
            assert process.returncode == 0, f"machine {number}: {said[-4000:]}"
        for name in MADE:
            assert (tmp_path / "run" / "stages" / name).read_bytes() == one_machine[name], name

    return check


def test_two_machines_make_what_one_makes_in_two_processes(start, make_the_same):
    make_the_same(start(0), start(1))


def test_a_machine_that_is_killed_and_given_again_does_not_change_what_is_made(start, make_the_same, tmp_path):
    leads, joins = start(0), start(1)
    until((tmp_path / "run" / "logs" / "train-1.machine-1.log").exists, (leads, joins))
    joins.kill()
    joins.wait()
    make_the_same(leads, start(1))


def test_machine_0_that_is_killed_and_given_again_finds_the_others_waiting(start, make_the_same, tmp_path):
    leads, joins = start(0), start(1)
    until((tmp_path / "run" / "logs" / "labels-1.machine-1.log").exists, (leads, joins))
    leads.kill()
    leads.wait()
    make_the_same(start(0), joins)

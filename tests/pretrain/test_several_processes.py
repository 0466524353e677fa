# SPDX-License-Identifier: Apache-2.0
"""Two processes, spawned by fairseq as for two GPUs: they find the plugin, and a mistake is one line there too."""

import os
import subprocess
import sys

import pytest

from headrace.mixers import MIXERS

pytestmark = pytest.mark.fairseq

# fairseq spawns as many processes as it counts GPUs; without any, they train on CPUs, as far as the first update.
TWO_PROCESSES = """
import sys, torch
torch.cuda.device_count = lambda: 2
from fairseq_cli.hydra_train import cli_main
sys.argv[0] = "fairseq-hydra-train"
cli_main()
"""


def train_in_two_processes(trainer, tmp_path, *overrides):
    command = [sys.executable, "-P", "-c", TWO_PROCESSES, *trainer.arguments(hydra__run__dir=tmp_path / "run")]
    command += ["distributed_training.distributed_world_size=2", "distributed_training.distributed_backend=gloo"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [*command, *overrides], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.mark.slow
def test_a_mistake_is_one_line_of_one_process(trainer, tmp_path):
    done = train_in_two_processes(trainer, tmp_path, "model.mixer=typo")
    assert done.returncode != 0
    lines = [line for line in done.stderr.splitlines() if "mixer must be one of" in line]
    assert lines == [f"headrace_fairseq: mixer must be one of {', '.join(MIXERS)}, got 'typo'."]
    assert "process 0 terminated with exit code 2" in done.stderr  # torch's report, from the process that started them
    assert "build_model" not in done.stderr


@pytest.mark.slow
def test_spawned_processes_import_the_plugin_from_user_dir(trainer, tmp_path):
    done = train_in_two_processes(trainer, tmp_path, "optimization.stop_min_lr=1")  # stops before the first update
    assert done.returncode == 0, done.stderr[-3000:]
    assert "training on 2 devices" in done.stdout
    assert "model: HeadraceWav2Vec2Model" in done.stdout

# SPDX-License-Identifier: Apache-2.0
"""A command starts without what takes seconds to import and it does not use: a run of many stages starts many."""

import subprocess
import sys

import pytest
import torch

from headrace.ops.backend import _is_new_enough


@pytest.mark.parametrize(
    ("folder", "module", "spared"),
    [
        (".", "headrace.cli", "torch._dynamo"),
        (".", "headrace.cli", "matplotlib"),
        ("pretrain", "headrace_labels.label_file", "sklearn"),
    ],
)
def test_what_takes_seconds_is_not_imported(repository, folder, module, spared):
    pytest.importorskip("joblib", reason="the packages of pretraining are not installed")
    source = f"import sys, {module}; sys.exit({spared!r} in sys.modules)"
    done = subprocess.run([sys.executable, "-c", source], cwd=repository / folder, check=False)
    assert done.returncode == 0, f"{module} imports {spared}"


def test_a_constant_is_marked_as_torch_marks_it():
    def by_torch():
        pass

    torch.compiler.assume_constant_result(by_torch)
    assert vars(by_torch).items() <= vars(_is_new_enough).items() and vars(by_torch)

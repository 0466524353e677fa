# SPDX-License-Identifier: Apache-2.0
"""The untrained twin from a configuration alone is the one that a checkpoint of it exports."""

import subprocess
import sys

import pytest
import torch

from headrace import checkpoint
from headrace.export import export

pytestmark = pytest.mark.fairseq


def untrained(repository, folder, *arguments):
    line = [sys.executable, str(repository / "pretrain" / "untrained.py"), str(folder), *arguments]
    return subprocess.run(line, capture_output=True, text=True, check=False, timeout=300)


@pytest.mark.parametrize("config", ["wav2vec2_tiny", "hubert_tiny"])
def test_it_is_what_a_checkpoint_would_export(repository, trainer, tmp_path, labelled_corpus, config):
    data = {"task__data": labelled_corpus, "task__label_dir": labelled_corpus} if config == "hubert_tiny" else {}
    training = trainer.start(config=config, optimization__max_update=1, model__hop=2, **data)
    training.finish()
    expected = export(training.last_checkpoint, tmp_path / "exported", untrained_seed=7).encoder
    values = [word for word in trainer.arguments(config=config)[4:] if word.startswith("model.")]
    done = untrained(repository, tmp_path / "twin", config, *values, "model.hop=2", "--seed", "7")
    assert done.returncode == 0, done.stderr
    found = checkpoint.load(tmp_path / "twin")
    assert found.config == expected.config
    assert all(torch.equal(found.state_dict()[name], tensor) for name, tensor in expected.state_dict().items())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("typo",), "there is no 'typo' in pretrain/configs; there are hubert_base_librispeech, "),
        (("wav2vec2_tiny", "model.mixer=typo"), "mixer must be one of"),
        (("wav2vec2_tiny", "model.mixr=full"), "untrained.py: wav2vec2_tiny: "),
        (("wav2vec2_tiny", "--seed", "2", "model.mixer=typo"), "mixer must be one of"),
        (("wav2vec2_tiny", "model.frontend=log_mel"), "--data: expected the folder of manifests"),
    ],
    ids=str,
)
def test_a_mistake_is_one_line(repository, tmp_path, arguments, said):
    done = untrained(repository, tmp_path / "twin", *arguments)
    assert done.returncode == 2
    assert said in done.stderr.splitlines()[-1]
    assert not (tmp_path / "twin").exists()

# SPDX-License-Identifier: Apache-2.0
"""fairseq's format, written and read without fairseq; test_fairseq_itself.py holds it against fairseq."""

import argparse
import pickle
import subprocess
import sys

import pytest
import torch

from encoders import CONFIGS, small_encoder
from headrace.checkpoint import from_fairseq, to_fairseq
from headrace.checkpoint.fairseq import encoder_config_from_fairseq, parse_conv_layers


@pytest.mark.parametrize("name", ["full", "sa", "llsa", *(name for name in CONFIGS if name.startswith("conformer"))])
def test_round_trip_through_fairseqs_format(name, tmp_path):
    encoder = small_encoder(torch.float32, **CONFIGS[name])
    to_fairseq(encoder, tmp_path / "checkpoint.pt")
    again = from_fairseq(tmp_path / "checkpoint.pt")
    assert again.config == encoder.config
    waveforms = torch.randn(1, 4000)
    assert torch.equal(encoder(waveforms).last_hidden_state, again(waveforms).last_hidden_state)


@pytest.fixture(params=[[], [argparse.Namespace]], ids=["unknown to torch", "safe for torch"])
def namespaces_declared(request):
    """As downstream's compat and others leave torch. What was safe before is safe again afterwards, which torch's own
    `safe_globals` does not see to: it removes what it was given even where that was safe before.
    """
    before = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals(request.param)
    yield
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals(before)


@pytest.mark.usefixtures("namespaces_declared")
def test_old_checkpoints_with_a_namespace_of_arguments_are_read(tmp_path):
    script = (
        "import argparse, sys, torch\n"
        "content = torch.load(sys.argv[1], weights_only=True)\n"
        "cfg = content.pop('cfg')\n"
        "content['args'] = argparse.Namespace(arch='wav2vec2', **{**cfg['task'], **cfg['model']})\n"
        "torch.save(content, sys.argv[1])\n"
    )
    encoder = small_encoder(torch.float32, mixer="full", positions="conv", look_ahead=0, look_back=None)
    to_fairseq(encoder, tmp_path / "old.pt")
    subprocess.run([sys.executable, "-c", script, tmp_path / "old.pt"], check=True)
    assert from_fairseq(tmp_path / "old.pt").config == encoder.config


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_a_malicious_pickle_is_refused_by_name_and_not_run(tmp_path):
    encoder = small_encoder(torch.float32)
    to_fairseq(encoder, tmp_path / "bad.pt")
    content = torch.load(tmp_path / "bad.pt", weights_only=True)
    torch.save({**content, "extra_state": Malicious(tmp_path / "owned")}, tmp_path / "bad.pt")
    with pytest.raises(ValueError, match=r"refused: it pickles (io|_io|builtins)\.open, which is not run"):
        from_fairseq(tmp_path / "bad.pt")
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not a readable checkpoint"),
        (b"not a checkpoint at all", "refused|not a readable checkpoint"),
        (pickle.dumps({"model": 1}), "refused|not a readable"),
    ],
    ids=["empty", "text", "plain pickle"],
)
def test_files_that_are_no_checkpoint_are_named(content, words, tmp_path):
    (tmp_path / "x.pt").write_bytes(content)
    with pytest.raises(ValueError, match=words):
        from_fairseq(tmp_path / "x.pt")


def test_a_checkpoint_with_a_missing_tensor_says_which(tmp_path):
    to_fairseq(small_encoder(torch.float32), tmp_path / "x.pt")
    content = torch.load(tmp_path / "x.pt", weights_only=True)
    del content["model"]["encoder.layers.1.fc1.weight"]
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(ValueError, match=r"missing context\.layers\.1\.fc1\.weight"):
        from_fairseq(tmp_path / "x.pt")


@pytest.mark.parametrize("text", ["__import__('os').system('x')", "[(1, 2)", "[(a, 1, 2)]", "3"], ids=str)
def test_conv_layers_are_read_without_eval(text):
    with pytest.raises(ValueError, match="conv_feature_layers"):
        parse_conv_layers(text)


def test_options_that_headrace_does_not_have_are_refused():
    with pytest.raises(ValueError, match="layer_type='conformer'"):
        encoder_config_from_fairseq({"layer_type": "conformer"})

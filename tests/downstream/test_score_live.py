# SPDX-License-Identifier: Apache-2.0
"""The error rate of a folder run live: of the words that a stream of each file gives."""

import json

import numpy as np
import pytest
import soundfile
import torch

import score_live
from encoders import small_encoder
from headrace import checkpoint, stream
from headrace.head import CtcHead, HeadConfig, load_head, save_head

SYMBOLS = ["<s>", "<pad>", "</s>", "<unk>", "|", "H", "I", "L", "O"]


@pytest.fixture
def folder(tmp_path):
    encoder = small_encoder(torch.float32, mixer="llsa")
    checkpoint.save(encoder, tmp_path / "encoder")
    torch.manual_seed(3)
    config = encoder.config
    head = CtcHead(HeadConfig(config.num_layers + 1, config.embed_dim, True, 12, [16], [False], [False], SYMBOLS, 0, 2))
    for parameter in head.parameters():
        parameter.data = 2 * torch.randn_like(parameter)
    save_head(head, tmp_path / "encoder")
    return tmp_path / "encoder"


@pytest.fixture
def corpus(asr_corpus):
    return asr_corpus[0]


def test_words_are_those_of_a_stream_and_int8_is_compared_with_fp32(folder, corpus, capsys):
    assert score_live.main([str(folder), "--data", str(corpus), "--split", "test", "--int8", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert set(result) == {"fp32", "int8", "difference"}
    encoder, head = checkpoint.load(folder), load_head(folder)
    wrong = words = 0
    for path in sorted((corpus / "test").rglob("*.flac")):
        session = stream.Session(encoder, head)
        session.feed(soundfile.read(path, dtype="float32")[0])
        session.finish()
        said, reference = session.text.split(), ("LO", "HI")[int(path.stem[-4:]) % 2]
        wrong += max(1, len(said)) - (reference in said)  # of a reference of one word
        words += 1
    assert result["fp32"]["num_utterances"] == words == 8
    assert result["fp32"]["metrics"]["wer"]["value"] == pytest.approx(100 * wrong / words)
    both = [result[weights]["metrics"]["wer"]["value"] for weights in ("int8", "fp32")]
    assert result["difference"]["difference"]["wer"]["value"] == pytest.approx(both[0] - both[1])


@pytest.mark.parametrize(
    ("spoil", "split", "said"),
    [
        pytest.param(lambda folder, corpus: (folder / "head.json").unlink(), "test", "has no head", id="no head"),
        pytest.param(lambda folder, corpus: None, "test-clean", "in LibriSpeech layout", id="no such split"),
        pytest.param(
            lambda folder, corpus: next((corpus / "test").rglob("*-0002.flac")).unlink(),
            "test", "-0002.flac is not there", id="audio missing",
        ),
        pytest.param(
            lambda folder, corpus: soundfile.write(next((corpus / "test").rglob("*.flac")), np.zeros(99), 8000),
            "test", "8000 Hz", id="another rate",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_scored_is_told_in_one_line(folder, corpus, spoil, split, said, capsys):
    spoil(folder, corpus)
    assert score_live.main([str(folder), "--data", str(corpus), "--split", split]) == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith("score_live.py: ")
    assert said in told

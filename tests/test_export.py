# SPDX-License-Identifier: Apache-2.0
"""`headrace export`: the same weights as they are, under another mixer or untrained; and what it refuses."""

import json

import pytest
import torch

import headrace
from encoders import small_encoder
from headrace.checkpoint import to_fairseq
from headrace.cli import main

ACAUSAL = {"mixer": "full", "positions": "conv", "conv_norm": "group_norm"}
MASKED = ("--mixer", "masked", "--look-ahead", "4", "--look-back", "9")


def checkpoint(path, **changes):
    """A checkpoint in fairseq's format; its encoder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    encoder = small_encoder(torch.float32, **changes)
    to_fairseq(encoder, path)
    return encoder


def test_same_weights_under_another_mixer(tmp_path, capsys):
    encoder = checkpoint(tmp_path / "x.pt", mixer="full")
    assert main(["export", str(tmp_path / "x.pt"), str(tmp_path / "f"), *MASKED]) == 0
    said = capsys.readouterr().out
    assert "look-ahead 12 frames" in said and said.count("\n") == 1
    again = headrace.load(tmp_path / "f")
    assert (again.config.mixer, again.config.look_ahead, again.config.look_back) == ("masked", 4, 9)
    state = again.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in encoder.state_dict().items())


def test_a_mixer_without_attention_dropout_leaves_the_checkpoints_out_and_says_so(tmp_path, capsys):
    encoder = checkpoint(tmp_path / "x.pt", **ACAUSAL)
    content = torch.load(tmp_path / "x.pt", weights_only=True)
    del content["cfg"]["model"]["attention_dropout"]  # as in old checkpoints: fairseq's default, 0.1
    torch.save(content, tmp_path / "x.pt")
    assert main(["export", str(tmp_path / "x.pt"), str(tmp_path / "f"), *MASKED]) == 0
    said = "0.1 in training, 0 here: masked has none"
    assert capsys.readouterr().out.splitlines()[1:] == [f"attention_dropout: {said}"]
    assert f"| attention_dropout | {said} |" in (tmp_path / "f" / "README.md").read_text()
    assert json.loads((tmp_path / "f" / "config.json").read_text())["provenance"]["attention_dropout"] == said
    again = headrace.load(tmp_path / "f")
    assert again.config.attention_dropout == 0
    state = again.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in encoder.state_dict().items())


def test_a_mixer_with_attention_dropout_keeps_the_checkpoints(tmp_path, capsys):
    checkpoint(tmp_path / "x.pt", **ACAUSAL, attention_dropout=0.1)
    assert main(["export", str(tmp_path / "x.pt"), str(tmp_path / "f")]) == 0
    assert headrace.load(tmp_path / "f").config.attention_dropout == 0.1
    assert "attention_dropout" not in capsys.readouterr().out + (tmp_path / "f" / "README.md").read_text()


def test_a_checkpoint_that_was_written_here_claims_no_training(tmp_path):
    checkpoint(tmp_path / "x.pt")
    assert main(["export", str(tmp_path / "x.pt"), str(tmp_path / "f")]) == 0
    assert json.loads((tmp_path / "f" / "config.json").read_text())["provenance"] == {"checkpoint": "x.pt"}


def test_untrained_twin_has_the_same_shape_and_other_weights(tmp_path):
    encoder = checkpoint(tmp_path / "x.pt")
    for name in ("a", "b"):
        assert main(["export", str(tmp_path / "x.pt"), str(tmp_path / name), "--untrained", "3"]) == 0
    a, b = (headrace.load(tmp_path / name) for name in "ab")
    assert a.config == encoder.config
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))
    assert not torch.equal(a.context.layers[0].fc1.weight, encoder.context.layers[0].fc1.weight)


def test_an_earlier_export_is_replaced(tmp_path):
    for seed in (0, 1):
        encoder = checkpoint(tmp_path / "x.pt", seed=seed)
        assert main(["export", str(tmp_path / "x.pt"), str(tmp_path / "f")]) == 0
    state = headrace.load(tmp_path / "f").state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in encoder.state_dict().items())


@pytest.mark.parametrize("folder", ["run", "run/checkpoints", "run/checkpoints/..", "link", "."])
def test_the_folder_of_the_checkpoint_itself_is_refused(folder, tmp_path, capsys, monkeypatch):
    checkpoint(tmp_path / "run" / "checkpoints" / "last.pt")
    (tmp_path / "link").symlink_to("run")
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert main(["export", "run/checkpoints/last.pt", folder]) == 2
    error = capsys.readouterr().err
    assert f"{folder} holds the checkpoint" in error and "choose another folder" in error and error.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_of_something_else_is_refused_and_kept(tmp_path, capsys):
    checkpoint(tmp_path / "x.pt")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("mine")
    assert main(["export", str(tmp_path / "x.pt"), str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert "holds thesis.tex, which would be lost" in error and error.count("\n") == 1
    assert (tmp_path / "run" / "thesis.tex").read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["missing.pt", "out"], "missing.pt"),
        (["x.pt", "out", "--look-ahead", "-1"], "look_ahead"),
        (["x.pt", "out", "--hop", "0"], "hop"),
    ],
    ids=["no checkpoint", "negative look-ahead", "hop 0"],
)
def test_mistakes_are_one_clear_line(arguments, words, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checkpoint(tmp_path / "x.pt")
    assert main(["export", *arguments]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1 and not (tmp_path / "out").exists()

# SPDX-License-Identifier: Apache-2.0
import json
import resource
import signal

import pytest
import torch
from safetensors.torch import load_file, save_file

import headrace
from encoders import CONFIGS, small_encoder
from headrace.checkpoint import save, to_fairseq
from headrace.cli import main

FILES = {
    "model.safetensors",
    "config.json",
    "preprocessor_config.json",
    "README.md",
    "hubconf.py",
    "expert.py",
    "requirements.txt",
}


@pytest.mark.parametrize("changes", CONFIGS.values(), ids=CONFIGS)
def test_what_is_loaded_is_what_was_saved(changes, tmp_path):
    encoder = small_encoder(torch.float32, **changes)
    save(encoder, tmp_path / "folder", {"objective": "wav2vec2", "updates": 7})
    again = headrace.load(tmp_path / "folder")
    assert {path.name for path in (tmp_path / "folder").iterdir()} == FILES
    assert again.config == encoder.config and not again.training
    waveforms = torch.randn(1, 4000)
    assert torch.equal(encoder(waveforms).last_hidden_state, again(waveforms).last_hidden_state)


def test_the_card_says_latency_and_where_the_weights_come_from(tmp_path):
    save(small_encoder(torch.float32), tmp_path / "folder", {"objective": "wav2vec2", "updates": 7})
    card = (tmp_path / "folder" / "README.md").read_text()
    assert "| look-ahead of all layers together | 2 frames = 40 ms |" in card and "| updates | 7 |" in card


def test_saving_over_a_folder_replaces_it_whole(tmp_path):
    save(small_encoder(torch.float32), tmp_path / "folder")
    (tmp_path / "folder" / "stale.txt").write_text("old")
    second = small_encoder(torch.float32, seed=1)
    save(second, tmp_path / "folder")
    assert {path.name for path in (tmp_path / "folder").iterdir()} == FILES
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
    loaded = headrace.load(tmp_path / "folder").state_dict()
    assert all(torch.equal(tensor, loaded[name]) for name, tensor in second.state_dict().items())


@pytest.fixture
def full_disk():
    """Files of this process may not grow beyond 20 kB: writing fails as it does on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_while_saving_leaves_what_was_there(tmp_path, request, capsys):
    first = small_encoder(torch.float32)
    save(first, tmp_path / "folder")
    to_fairseq(small_encoder(torch.float32, seed=1), tmp_path / "checkpoint.pt")
    request.getfixturevalue("full_disk")
    assert main(["export", str(tmp_path / "checkpoint.pt"), str(tmp_path / "folder")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "could not be written" in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint.pt", "folder"]
    loaded = headrace.load(tmp_path / "folder").state_dict()
    assert all(torch.equal(tensor, loaded[name]) for name, tensor in first.state_dict().items())


def damage(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


def drop_tensor(folder):
    state = load_file(folder / "model.safetensors")
    del state["context.layers.0.fc1.bias"]
    state["project.norm.weight"] = torch.zeros(3)
    save_file(state, folder / "model.safetensors")


DAMAGES = {
    "a missing tensor and a wrong shape": (drop_tensor, ["missing context.layers.0.fc1.bias", "(3,), expected (16,)"]),
    "a missing file": (lambda f: (f / "model.safetensors").unlink(), ["model.safetensors missing", "headrace export"]),
    "damaged weights": (lambda f: (f / "model.safetensors").write_bytes(b"xx"), ["damaged"]),
    "another format version": (lambda f: damage(f, format_version=9), ["version 9", "version 1"]),
    "an unknown field": (lambda f: damage(f, depth=3), ["no field depth"]),
    "a bad field": (lambda f: damage(f, mixer="typo"), ["mixer", "'typo'"]),
    "no JSON": (lambda f: (f / "config.json").write_text("{"), ["config.json is not JSON"]),
}


@pytest.mark.parametrize(("spoil", "words"), DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_folder_says_what_is_wrong(spoil, words, tmp_path):
    save(small_encoder(torch.float32), tmp_path / "folder")
    spoil(tmp_path / "folder")
    with pytest.raises(ValueError) as caught:
        headrace.load(tmp_path / "folder")
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_a_folder_that_is_nowhere_is_named():
    with pytest.raises(ValueError, match="neither a portable folder nor a hub id"):
        headrace.load("no/such/folder")


class TestExport:
    def test_same_weights_under_another_mixer(self, tmp_path, capsys):
        encoder = small_encoder(torch.float32, mixer="full")
        to_fairseq(encoder, tmp_path / "x.pt")
        arguments = ["export", str(tmp_path / "x.pt"), str(tmp_path / "f"), "--mixer", "masked", "--look-ahead", "4"]
        assert main([*arguments, "--look-back", "9"]) == 0
        assert "look-ahead 12 frames" in capsys.readouterr().out
        again = headrace.load(tmp_path / "f")
        assert (again.config.mixer, again.config.look_ahead, again.config.look_back) == ("masked", 4, 9)
        state = again.state_dict()
        assert all(torch.equal(tensor, state[name]) for name, tensor in encoder.state_dict().items())

    def test_untrained_twin_has_the_same_shape_and_other_weights(self, tmp_path):
        encoder = small_encoder(torch.float32)
        to_fairseq(encoder, tmp_path / "x.pt")
        for name in ("a", "b"):
            assert main(["export", str(tmp_path / "x.pt"), str(tmp_path / name), "--untrained", "3"]) == 0
        a, b = (headrace.load(tmp_path / name) for name in "ab")
        assert a.config == encoder.config
        assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))
        assert not torch.equal(a.context.layers[0].fc1.weight, encoder.context.layers[0].fc1.weight)

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["missing.pt", "out"], "missing.pt"),
            (["x.pt", "out", "--look-ahead", "-1"], "look_ahead"),
            (["x.pt", "out", "--hop", "0"], "hop"),
        ],
        ids=["no checkpoint", "negative look-ahead", "hop 0"],
    )
    def test_mistakes_are_one_clear_line(self, arguments, words, tmp_path, capsys, monkeypatch):
        monkeypatch.chdir(tmp_path)
        to_fairseq(small_encoder(torch.float32), tmp_path / "x.pt")
        assert main(["export", *arguments]) == 2
        error = capsys.readouterr().err
        assert words in error and error.count("\n") == 1 and not (tmp_path / "out").exists()

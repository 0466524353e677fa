# SPDX-License-Identifier: Apache-2.0
import json

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


@pytest.mark.parametrize(
    ("restricted", "whole"), [(0.6, ", and for whole utterances, `None`"), (1, "")], ids=["some whole", "none whole"]
)
def test_the_card_says_which_sizes_may_be_chosen_where_training_drew_them(tmp_path, restricted, whole):
    drawn = {"hop": [2, 6], "restricted": restricted}
    save(small_encoder(torch.float32, mixer="none", block="conformer", hop=4, drawn=drawn), tmp_path / "drawn")
    save(small_encoder(torch.float32, mixer="none", block="conformer", hop=4), tmp_path / "fixed")
    drawn_card, fixed_card = ((tmp_path / name / "README.md").read_text() for name in ("drawn", "fixed"))
    assert f"Trained for blocks of 2 to 6 frames (40 to 120 ms){whole}: one size" in drawn_card
    assert 'changes={"hop": 2}' in drawn_card and "Trained for" not in fixed_card
    for mixer, said in {"llsa": "40 to 120 ms): one size", "sa": None}.items():
        save(small_encoder(torch.float32, mixer=mixer, hop=4, drawn=drawn), tmp_path / mixer)
        card = (tmp_path / mixer / "README.md").read_text()
        assert said in card if said else "Trained for" not in card


def test_nothing_that_we_write_promises_a_package_that_is_not_published(tmp_path):
    save(small_encoder(torch.float32), tmp_path / "folder")
    texts = {name: (tmp_path / "folder" / name).read_text() for name in FILES - {"model.safetensors"}}
    assert not [name for name, text in texts.items() if "pip install headrace" in text]
    requirements = [line for line in texts["requirements.txt"].splitlines() if not line.startswith("#")]
    assert requirements == ["torch", "numpy", "soundfile", "safetensors"]
    assert "From a checkout of headrace's repository: `pip install" in texts["README.md"]


def test_saving_over_an_earlier_folder_replaces_it_whole(tmp_path):
    save(small_encoder(torch.float32), tmp_path / "folder")
    (tmp_path / "folder" / "__pycache__").mkdir()  # torch.hub ran hubconf.py
    second = small_encoder(torch.float32, seed=1)
    save(second, tmp_path / "folder")
    assert {path.name for path in (tmp_path / "folder").iterdir()} == FILES
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
    loaded = headrace.load(tmp_path / "folder").state_dict()
    assert all(torch.equal(tensor, loaded[name]) for name, tensor in second.state_dict().items())


def put(name, text):
    """Something that stands in the way: a file of this name in the folder."""

    def stand(folder):
        folder.mkdir()
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)

    return stand


def add_to_an_export(folder):
    save(small_encoder(torch.float32), folder)
    (folder / "notes.txt").write_text("mine")


IN_THE_WAY = {
    "a file": (lambda path: path.write_text("mine"), "is a file"),
    "a folder of something else": (put("thesis.tex", "mine"), "holds thesis.tex, which would be lost"),
    "a folder of folders": (put("checkpoints/last.pt", "mine"), "holds checkpoints, which would be lost"),
    "an export that somebody added to": (add_to_an_export, "holds notes.txt, which would be lost"),
    "another library's model": (put("config.json", '{"model_type": "bert"}'), "not written by headrace"),
    "a configuration that is no JSON": (put("config.json", "mine"), "not written by headrace"),
    "a configuration that is a list": (put("config.json", '["format_version"]'), "not written by headrace"),
}


@pytest.mark.parametrize(("stand", "words"), IN_THE_WAY.values(), ids=IN_THE_WAY)
def test_what_somebody_else_wrote_is_never_replaced(stand, words, tmp_path):
    stand(tmp_path / "folder")
    before = contents(tmp_path)
    with pytest.raises(ValueError, match=words) as caught:
        save(small_encoder(torch.float32), tmp_path / "folder")
    assert "choose another name" in str(caught.value) and "\n" not in str(caught.value)
    assert contents(tmp_path) == before


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_an_empty_folder_and_a_link_to_one_can_be_written_to(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("empty")
    save(small_encoder(torch.float32), tmp_path / "link")
    save(small_encoder(torch.float32, seed=1), tmp_path / "link")
    assert (tmp_path / "link").is_symlink() and headrace.load(tmp_path / "empty").config.mixer == "llsa"


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

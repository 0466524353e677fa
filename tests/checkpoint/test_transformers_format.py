# SPDX-License-Identifier: Apache-2.0
"""Folders that transformers itself wrote, read without it, frame for frame; and back."""

import pytest
import torch

from encoders import small_encoder
from headrace.checkpoint import from_transformers, to_transformers

STYLES = {
    "base (post-norm, group norm)": {"do_stable_layer_norm": False, "feat_extract_norm": "group", "conv_bias": False},
    "large (pre-norm, layer norm)": {"do_stable_layer_norm": True, "feat_extract_norm": "layer", "conv_bias": True},
}
each_style = pytest.mark.parametrize("style", STYLES.values(), ids=STYLES)


def their_model(kind, style):
    compat = pytest.importorskip("headrace_downstream.compat")
    compat.install()  # transformers imports torchaudio, which needs a stand-in beside CPU-only torch
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    config_class = transformers.HubertConfig if kind.startswith("Hubert") else transformers.Wav2Vec2Config
    torch.manual_seed(0)
    config = config_class(
        num_hidden_layers=4,
        hidden_size=32,
        intermediate_size=64,
        num_attention_heads=4,
        conv_dim=(16,) * 7,
        **style,
    )
    model = getattr(transformers, kind)(config).eval()
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model


@each_style
@pytest.mark.parametrize("kind", ["Wav2Vec2Model", "Wav2Vec2ForPreTraining", "HubertModel"])
def test_all_layers_equal_transformers_own(kind, style, tmp_path):
    model = their_model(kind, style)
    model.save_pretrained(tmp_path)
    encoder = from_transformers(tmp_path)
    waveforms = torch.randn(2, 8000)
    with torch.no_grad():
        theirs = model(waveforms, output_hidden_states=True)
        ours = encoder(waveforms)
    for a, b in zip(theirs.hidden_states, ours.hidden_states, strict=True):
        assert torch.allclose(a, b, atol=1e-5)
    if kind != "Wav2Vec2ForPreTraining":
        assert torch.allclose(theirs.last_hidden_state, ours.last_hidden_state, atol=1e-5)


@each_style
def test_what_we_write_loads_into_transformers(style, tmp_path):
    model = their_model("Wav2Vec2Model", style)
    model.save_pretrained(tmp_path / "theirs")
    to_transformers(from_transformers(tmp_path / "theirs"), tmp_path / "ours")
    again = type(model).from_pretrained(tmp_path / "ours").eval()
    waveforms = torch.randn(1, 6000)
    with torch.no_grad():
        assert torch.equal(model(waveforms).last_hidden_state, again(waveforms).last_hidden_state)


@pytest.mark.parametrize("embed_dim", [16, 32], ids=["as wide as the convolutions", "projected"])
def test_round_trip_through_transformers_format(embed_dim, tmp_path):
    encoder = small_encoder(torch.float32, mixer="full", positions="conv", embed_dim=embed_dim)
    to_transformers(encoder, tmp_path / "x")
    again = from_transformers(tmp_path / "x")
    waveforms = torch.randn(1, 4000)
    assert torch.equal(encoder(waveforms).last_hidden_state, again(waveforms).last_hidden_state)


def test_an_earlier_folder_is_replaced_and_a_model_that_transformers_saved_is_not(tmp_path):
    encoder = small_encoder(torch.float32, mixer="full", positions="conv")
    to_transformers(encoder, tmp_path / "x")
    to_transformers(encoder, tmp_path / "x")
    theirs = type(their_model("Wav2Vec2Model", STYLES["base (post-norm, group norm)"])).from_pretrained(tmp_path / "x")
    theirs.save_pretrained(tmp_path / "x")  # a fine-tuned model, say
    before = (tmp_path / "x" / "model.safetensors").read_bytes()
    with pytest.raises(ValueError, match="not written by headrace"):
        to_transformers(encoder, tmp_path / "x")
    assert (tmp_path / "x" / "model.safetensors").read_bytes() == before


def test_streaming_encoders_are_refused_with_the_format_to_use():
    with pytest.raises(ValueError, match="portable folder"):
        to_transformers(small_encoder(torch.float32), "never-written")


def test_a_folder_without_safetensors_is_named(tmp_path):
    to_transformers(small_encoder(torch.float32, mixer="full", positions="conv"), tmp_path / "x")
    (tmp_path / "x" / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors"):
        from_transformers(tmp_path / "x")

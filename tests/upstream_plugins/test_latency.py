# SPDX-License-Identifier: Apache-2.0
"""`python -m headrace_upstream.latency`: the certificate of any s3prl upstream."""

import json

import pytest
import torch

from encoders import small_encoder
from headrace import checkpoint
from headrace_upstream import latency

pytestmark = [pytest.mark.s3prl, pytest.mark.filterwarnings("ignore")]  # s3prl and what it imports warn of many things

CONVOLUTIONS = {"conv_dim": [8] * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2}
SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, **CONVOLUTIONS}


@pytest.fixture(autouse=True)
def hub(s3prl_module):
    return s3prl_module("s3prl.hub")


@pytest.mark.parametrize("changes", [{"mixer": "llsa", "hop": 2}, {"mixer": "sa"}], ids=["llsa", "sa"])
def test_an_upstream_of_headrace_holds_its_claim(changes, tmp_path, capsys):
    checkpoint.save(small_encoder(torch.float32, **changes), tmp_path / "encoder")
    told = tmp_path / "latency.json"
    assert latency.main(["headrace_local", "-k", str(tmp_path / "encoder"), "--json", str(told)]) == 0
    rows = json.loads(told.read_text())["hidden_states"]
    frames = 2 + 1 if changes["mixer"] == "llsa" else 3 * 2
    assert rows[-1]["claimed_ms"] == pytest.approx(325 / 16 + 20 * frames) and all(row["holds"] for row in rows)
    assert "every claim holds" in capsys.readouterr().out


@pytest.mark.parametrize("family", ["wav2vec2", "hubert"])
def test_wav2vec2_and_hubert_with_random_weights_are_not_causal(family, tmp_path, capsys):
    import transformers

    names = {"wav2vec2": ("Wav2Vec2Config", "Wav2Vec2Model"), "hubert": ("HubertConfig", "HubertModel")}[family]
    config, model = (getattr(transformers, name) for name in names)
    torch.manual_seed(0)
    model(config(**SMALL)).save_pretrained(tmp_path)
    transformers.Wav2Vec2FeatureExtractor().save_pretrained(tmp_path)
    assert latency.main([f"hf_{family}_custom", "-k", str(tmp_path), "--seconds", "2"]) == 1
    said = capsys.readouterr().out
    assert "NOT CAUSAL" in said and said.count("waits whole utterance") == 3


def test_a_band_that_claims_nothing_is_seen_to_wait_for_what_it_waits(tmp_path):
    """The same tries on an upstream whose wait is known: found to a quarter of a stride."""
    upstream = latency.EncoderUpstream(small_encoder(torch.float32, mixer="sa", look_ahead=1))
    found = latency.look(upstream, seconds=2)
    assert found["holds"]
    for layer, row in enumerate(found["hidden_states"]):
        claimed = 325 / 16 + 20 * layer
        assert claimed - 320 / 16 / 4 <= row["observed_ms"] <= claimed


def test_an_upstream_that_s3prl_has_not_is_named(capsys):
    assert latency.main(["no_such_upstream"]) == 2
    assert "no_such_upstream: s3prl has no such upstream" in capsys.readouterr().err

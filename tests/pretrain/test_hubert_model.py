# SPDX-License-Identifier: Apache-2.0
"""fairseq's HuBERT with headrace's encoder: the same numbers, names and errors."""

import dataclasses

import pytest
import torch

pytest.importorskip("fairseq", reason="fairseq is not installed")
from fairseq.data import Dictionary
from fairseq.models.hubert.hubert import HubertConfig, HubertModel
from fairseq.tasks.hubert_pretraining import HubertPretrainingConfig
from omegaconf import OmegaConf

from headrace import EncoderConfig
from headrace.checkpoint.fairseq import FAIRSEQ_FIELDS
from headrace_fairseq.config import HUBERT_MASKS, RUN_FIELDS, HeadraceHubertConfig
from headrace_fairseq.models.headrace_hubert import HeadraceHubertModel

pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")  # fairseq's positional convolution

NUM_CLUSTERS = 7
SMALL = {
    "label_rate": 50.0,
    "encoder_layers": 2,
    "encoder_embed_dim": 16,
    "encoder_ffn_embed_dim": 32,
    "encoder_attention_heads": 2,
    "conv_feature_layers": "[(12, 10, 5), (12, 8, 8), (12, 8, 8)]",
    "conv_pos": 6,
    "conv_pos_groups": 2,
    "final_dim": 8,
    "untie_final_proj": True,
    "mask_length": 2,
    "mask_prob": 0.5,
    "dropout": 0.0,
    "attention_dropout": 0.0,
}
RUN = {"seed": 1, "max_update": 10, "log_interval": 10, "sample_rate": 16000, "normalize_waveform": False}
LOG_MEL = {"frontend": "log_mel", "num_mels": 20, "mel_channels": [6, 4], "look_back": None}
LIKE_FAIRSEQ = {"mixer": "full", "positions": "conv"}
STYLES = {
    "base": {"extractor_mode": "default", "layer_norm_first": False},
    "large": {"extractor_mode": "layer_norm", "layer_norm_first": True, "conv_bias": True},
    "tied": {"extractor_mode": "layer_norm", "untie_final_proj": False, "encoder_embed_dim": 12},
}


def dictionary():
    words = Dictionary()
    for number in range(NUM_CLUSTERS):
        words.add_symbol(str(number))
    return words


def task_config(**changes):
    return OmegaConf.merge(HubertPretrainingConfig(), {"data": "", "label_rate": 50.0, "labels": ["km"]} | changes)


def ours(**changes):
    values = SMALL | RUN | {"extractor_mode": "layer_norm", "look_ahead": 2, "look_back": 6} | changes
    cfg = OmegaConf.merge(HeadraceHubertConfig(), values)
    return HeadraceHubertModel(cfg, task_config(label_rate=values["label_rate"]), [dictionary()])


def stock(**changes):
    cfg = OmegaConf.merge(HubertConfig(), SMALL | changes)
    return HubertModel(cfg, task_config(), [dictionary()])


def batch(num_samples=(16000, 16000), rate=50):
    source = torch.zeros(len(num_samples), max(num_samples))
    padding_mask = torch.ones(source.shape, dtype=torch.bool)
    for row, padding, length in zip(source, padding_mask, num_samples, strict=True):
        row[:length] = torch.randn(length)
        padding[:length] = False
    labels = torch.randint(4, 4 + NUM_CLUSTERS, (len(num_samples), max(num_samples) * rate // 16000))
    return {"source": source, "padding_mask": padding_mask, "target_list": [labels]}


def of_utterances(inputs):
    return inputs | {"utterances": torch.arange(len(inputs["source"])) + 7}


@pytest.mark.parametrize("style", STYLES)
def test_full_equals_fairseqs_model_and_weights_move_both_ways(style, monkeypatch):
    theirs, model = stock(**STYLES[style]), ours(**LIKE_FAIRSEQ, **STYLES[style])
    model.load_state_dict(theirs.state_dict())
    copy = stock(**STYLES[style])
    copy.load_state_dict(model.state_dict())
    mask = torch.zeros(2, 49, dtype=torch.bool)
    mask[:, 5:25] = True
    monkeypatch.setattr("fairseq.models.hubert.hubert.compute_mask_indices", lambda *_, **__: mask.numpy())
    inputs = batch()
    results = [candidate(**inputs) for candidate in (theirs, model, copy)]
    for name in ("logit_m_list", "logit_u_list"):
        torch.testing.assert_close(results[1][name][0], results[0][name][0], atol=1e-5, rtol=1e-5)
        assert torch.equal(results[2][name][0], results[0][name][0])
    torch.testing.assert_close(results[1]["features_pen"], results[0]["features_pen"], atol=1e-6, rtol=1e-5)


def test_features_of_a_layer_equal_fairseqs_in_a_padded_batch():
    style = STYLES["large"]
    theirs, model = stock(**style).eval(), ours(**LIKE_FAIRSEQ, **style).eval()
    model.load_state_dict(theirs.state_dict())
    inputs = batch((16000, 9600))  # 9600: no frame that is padding in part, of which fairseq makes one more
    for layer in (None, 1, 2):
        expected, _ = theirs.extract_features(inputs["source"], inputs["padding_mask"], output_layer=layer)
        found, padding = model.extract_features(inputs["source"], inputs["padding_mask"], output_layer=layer)
        assert (~padding).sum(-1).tolist() == [49, 29]
        if layer is None:
            torch.testing.assert_close(found[0], expected[0], atol=1e-5, rtol=1e-5)
        alone, _ = model.extract_features(inputs["source"][1:, :9600], None, output_layer=layer)
        torch.testing.assert_close(found[1, :29], alone[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("mixer", "hop"), [("masked", 1), ("sa", 1), ("llsa", 1), ("llsa", 3)])
def test_streaming_mixers_have_fairseqs_names_but_for_positions(mixer, hop):
    style = STYLES["large"] | {"mixer": mixer, "hop": hop}
    expected = set(stock(**STYLES["large"]).state_dict())
    assert set(ours(**style).state_dict()) == {name for name in expected if "pos_conv" not in name}
    assert set(ours(**style, positions="causal_conv").state_dict()) == expected


def test_every_field_of_the_encoder_stands_in_the_configuration_once():
    names = [field.name for field in dataclasses.fields(HeadraceHubertConfig)]
    for field in dataclasses.fields(EncoderConfig):
        assert names.count(FAIRSEQ_FIELDS.get(field.name, field.name)) == 1, field.name
    stock_names = {field.name for field in dataclasses.fields(HubertConfig)}
    own = {field.name for field in dataclasses.fields(EncoderConfig)} - set(FAIRSEQ_FIELDS)
    assert set(names) == stock_names | own | set(RUN_FIELDS) | set(HUBERT_MASKS)


@pytest.mark.parametrize("mask_channel_prob", [0.0, 0.5])
def test_masks_depend_on_the_utterances_only(mask_channel_prob):
    model = ours(mask_channel_prob=mask_channel_prob, mask_channel_length=2).eval()
    inputs = of_utterances(batch((16000, 12000)))
    first = model(**inputs, epoch=1)["logit_m_list"][0]
    torch.rand(3)
    assert torch.equal(model(**inputs, epoch=1)["logit_m_list"][0], first)
    assert not torch.equal(model(**inputs, epoch=2)["logit_m_list"][0], first)


def test_an_utterance_is_masked_alike_among_any_others():
    model, inputs = ours().eval(), of_utterances(batch((16000, 9600)))
    alone = {name: x[1:] for name, x in inputs.items() if name != "target_list"}
    alone["source"], alone["padding_mask"] = alone["source"][:, :9600], alone["padding_mask"][:, :9600]
    labels = inputs["target_list"][0][1:]
    among, by_itself = model(**inputs), model(**alone, target_list=[labels])
    count = len(by_itself["logit_m_list"][0])
    torch.testing.assert_close(among["logit_m_list"][0][-count:], by_itself["logit_m_list"][0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("rate", [50, 100])
def test_a_frame_is_told_the_label_of_its_time(rate):
    model = ours(label_rate=float(rate)).eval()
    labels = torch.arange(4, 4 + 7).repeat(30)[None, :rate]
    features, aligned = model.forward_targets(torch.zeros(1, 12, 49), [labels])
    assert features.shape[2] == aligned[0].shape[1] == 49
    assert torch.equal(aligned[0][0], labels[0, torch.arange(49) * rate // 50])


@pytest.mark.parametrize("rate", [25, 50, 100])
def test_a_frame_of_40_ms_is_told_the_label_of_its_time(rate):
    model = ours(**LOG_MEL, label_rate=float(rate)).eval()
    labels = torch.arange(4, 4 + 7).repeat(30)[None, :rate]
    features, aligned = model.forward_targets(torch.zeros(1, 20, 25), [labels])
    assert features.shape[2] == aligned[0].shape[1] == 25
    assert torch.equal(aligned[0][0], labels[0, torch.arange(25) * rate // 25])


def test_log_mel_frames_have_the_masks_padding_and_gradients_of_their_own_rate():
    model = ours(**LOG_MEL)
    inputs = of_utterances(batch((16000, 9700)))
    result = model(**inputs)
    assert result["padding_mask"].shape == (2, 25) and (~result["padding_mask"]).sum(-1).tolist() == [25, 15]
    (result["logit_m_list"][0].sum() + result["logit_u_list"][0].sum()).backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


def test_all_parameters_have_gradients_but_the_mask_without_masks():
    model = ours(mask_channel_prob=0.3, mask_channel_length=2, look_back=None)
    result = model(**of_utterances(batch()))
    (result["logit_m_list"][0].sum() + result["logit_u_list"][0].sum()).backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mixer": "typo"}, "mixer must be one of"),
        ({"look_ahead": -1}, "look_ahead"),
        ({"attention_dropout": 0.1}, "attention_dropout must be 0 for llsa"),
        ({"positions": "conv"}, "sees the whole utterance"),
        ({"layer_type": "conformer"}, "layer_type"),
        ({"checkpoint_activations": True}, "model.checkpoint_activations must be False, got True"),
        ({"mask_selection": "uniform"}, "static, normal or poisson"),
    ],
    ids=str,
)
def test_a_mistake_is_named(changes, message):
    with pytest.raises(ValueError, match=message) as error:
        ours(**changes)
    assert "\n" not in str(error.value)


def test_a_checkpoint_with_other_clusters_is_refused_in_one_line():
    other = ours().state_dict()
    other["label_embs_concat"] = torch.zeros(40, 8)
    with pytest.raises(ValueError, match=r"label_embs_concat is \[40, 8\], expected \[11, 8\]") as error:
        ours().load_state_dict(other)
    assert "\n" not in str(error.value)

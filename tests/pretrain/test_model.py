# SPDX-License-Identifier: Apache-2.0
"""fairseq's wav2vec2 with headrace's encoder: the same numbers, names and errors."""

import dataclasses

import pytest
import torch

pytest.importorskip("fairseq", reason="fairseq is not installed")
from fairseq.models.wav2vec.wav2vec2 import Wav2Vec2Config, Wav2Vec2Model
from omegaconf import OmegaConf

from headrace import EncoderConfig, Everything
from headrace.checkpoint.fairseq import FAIRSEQ_FIELDS
from headrace_fairseq import masks
from headrace_fairseq.config import RUN_FIELDS, HeadraceWav2Vec2Config
from headrace_fairseq.models.headrace_wav2vec2 import HeadraceWav2Vec2Model

pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")  # fairseq's positional convolution

SMALL = {
    "encoder_layers": 2,
    "encoder_embed_dim": 16,
    "encoder_ffn_embed_dim": 32,
    "encoder_attention_heads": 2,
    "conv_feature_layers": "[(12, 10, 5), (12, 8, 8), (12, 8, 8)]",
    "conv_pos": 6,
    "conv_pos_groups": 2,
    "quantize_targets": True,
    "final_dim": 8,
    "latent_vars": 8,
    "num_negatives": 5,
    "mask_length": 2,
    "dropout": 0.0,
    "attention_dropout": 0.0,
}
RUN = {"seed": 1, "max_update": 10, "log_interval": 10, "sample_rate": 16000, "normalize_waveform": False}
LIKE_FAIRSEQ = {"mixer": "full", "positions": "conv"}
STYLES = {
    "base": {"extractor_mode": "default", "layer_norm_first": False},
    "large": {"extractor_mode": "layer_norm", "layer_norm_first": True, "conv_bias": True},
    "equal widths": {"extractor_mode": "layer_norm", "encoder_embed_dim": 12, "conv_pos_groups": 2},
}


def ours(**changes):
    values = SMALL | RUN | {"extractor_mode": "layer_norm", "look_ahead": 2, "look_back": 6} | changes
    return HeadraceWav2Vec2Model.build_model(OmegaConf.merge(HeadraceWav2Vec2Config(), values))


def stock(**changes):
    return Wav2Vec2Model(OmegaConf.merge(Wav2Vec2Config(), SMALL | changes))


def batch(num_samples=(16000, 16000)):
    source = torch.zeros(len(num_samples), max(num_samples))
    padding_mask = torch.ones(source.shape, dtype=torch.bool)
    for row, padding, length in zip(source, padding_mask, num_samples, strict=True):
        row[:length] = torch.randn(length)
        padding[:length] = False
    return {"source": source, "padding_mask": padding_mask, "utterances": torch.arange(len(num_samples)) + 7}


@pytest.mark.parametrize("style", STYLES)
def test_full_equals_fairseqs_model_and_weights_move_both_ways(style):
    theirs, model = stock(**STYLES[style]), ours(**LIKE_FAIRSEQ, **STYLES[style])
    model.load_state_dict(theirs.state_dict())
    copy = stock(**STYLES[style])
    copy.load_state_dict(model.state_dict())
    inputs = batch()
    del inputs["utterances"]
    mask_indices = torch.zeros(2, 49, dtype=torch.bool)
    mask_indices[:, 5:25] = True
    results = []
    for candidate in (theirs, model, copy):
        torch.manual_seed(3)  # negatives and the quantizer's noise
        results.append(candidate(**inputs, mask_indices=mask_indices))
    for name in ("x", "features_pen", "code_perplexity", "prob_perplexity"):
        torch.testing.assert_close(results[1][name], results[0][name], atol=1e-5, rtol=1e-5)
        assert torch.equal(results[2][name], results[0][name])


@pytest.mark.parametrize("style", ["base", "large"])
def test_features_of_a_layer_equal_fairseqs_in_a_padded_batch(style):
    # A group norm over time sees the padding in fairseq.
    style = STYLES[style] | {"extractor_mode": "layer_norm"}
    theirs, model = stock(**style).eval(), ours(**LIKE_FAIRSEQ, **style).eval()
    model.load_state_dict(theirs.state_dict())
    inputs = batch((16000, 9000))
    for layer in (None, 0, 1):
        expected = theirs.extract_features(inputs["source"], inputs["padding_mask"], layer=layer)
        found = model.extract_features(inputs["source"], inputs["padding_mask"], layer=layer)
        valid = ~expected["padding_mask"]
        torch.testing.assert_close(found["x"][valid], expected["x"][valid], atol=1e-5, rtol=1e-5)
        assert torch.equal(found["padding_mask"], expected["padding_mask"])


@pytest.mark.parametrize(("mixer", "hop"), [("masked", 1), ("sa", 1), ("llsa", 1), ("llsa", 3)])
def test_streaming_mixers_have_fairseqs_names_but_for_positions(mixer, hop):
    style = STYLES["large"] | {"mixer": mixer, "hop": hop}
    expected = set(stock(**STYLES["large"]).state_dict())
    positions = {name for name in expected if "pos_conv" in name}
    assert set(ours(**style).state_dict()) == expected - positions
    assert set(ours(**style, positions="causal_conv").state_dict()) == expected


def test_every_field_of_the_encoder_stands_in_the_configuration_once():
    names = [field.name for field in dataclasses.fields(HeadraceWav2Vec2Config)]
    for field in dataclasses.fields(EncoderConfig):
        assert names.count(FAIRSEQ_FIELDS.get(field.name, field.name)) == 1, field.name
    stock_names = {field.name for field in dataclasses.fields(Wav2Vec2Config)}
    own = {field.name for field in dataclasses.fields(EncoderConfig)} - set(FAIRSEQ_FIELDS)
    assert set(names) == stock_names | own | set(RUN_FIELDS)


@pytest.mark.parametrize("mask_channel_prob", [0.0, 0.5])
def test_masks_and_validation_depend_on_the_utterances_only(mask_channel_prob):
    model = ours(mask_channel_prob=mask_channel_prob, mask_channel_length=2).eval()
    inputs = batch((16000, 12000))
    first = model(**inputs, epoch=1)["x"]
    torch.rand(3)
    assert torch.equal(model(**inputs, epoch=1)["x"], first)
    assert not torch.equal(model(**inputs, epoch=2)["x"], first)


def test_validation_leaves_torchs_generator_alone():
    model, inputs = ours().eval(), batch()
    torch.manual_seed(1)
    expected = torch.rand(4)
    torch.manual_seed(1)
    model(**inputs)
    assert torch.equal(torch.rand(4), expected)


def test_channel_masks_and_all_gradients():
    model = ours(mask_channel_prob=0.3, mask_channel_length=2, look_back=None)
    model(**batch())["x"][0].sum().backward()
    missing = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert missing == []


LOG_MEL = {"frontend": "log_mel", "num_mels": 20, "mel_channels": [6, 4]}


def test_log_mel_frames_have_fairseqs_arithmetic_masks_and_gradients():
    model = ours(**LOG_MEL, mask_channel_prob=0.3, mask_channel_length=2, look_back=None)
    assert model.quantizer.vars.shape[-1] * model.quantizer.groups == model.project_q.in_features
    assert model.speech_encoder.frontend.num_channels == model.embed == 20
    result = model(**batch((16000, 9700)))
    assert result["padding_mask"].shape == (2, 25) and (~result["padding_mask"]).sum(-1).tolist() == [25, 15]
    result["x"][0].sum().backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


def test_the_configuration_of_a_log_mel_encoder_is_its_own_and_the_waveforms_one_is_left():
    model = ours(**LOG_MEL)
    assert model.cfg.conv_feature_layers == SMALL["conv_feature_layers"]
    assert model.speech_encoder.config.mel_channels == [6, 4]
    names = set(model.state_dict())
    assert {"feature_extractor.log_mel.mean", "feature_extractor.conv_layers.1.2.1.weight"} <= names
    again = ours(**LOG_MEL)
    again.load_state_dict(model.state_dict())
    inputs = batch()
    assert torch.equal(again.eval()(**inputs)["x"], model.eval()(**inputs)["x"])


@pytest.mark.parametrize("frontend", [{}, LOG_MEL], ids=["waveform", "log_mel"])
def test_the_shortest_utterance_leaves_a_frame_to_see_and_none_is_longer_than_it_must_be(frontend):
    model = ours(**frontend)
    shortest = model.min_samples
    for num_samples, enough in ((shortest, True), (shortest - 1, False)):
        num_frames = int(model._get_feat_extract_output_lengths(torch.tensor(num_samples)))
        assert (num_frames >= masks.min_frames(model.cfg)) is enough
    for utterance in range(20):
        inputs = batch((shortest,)) | {"utterances": torch.tensor([utterance])}
        chosen = model._masks(inputs["source"], None, inputs["utterances"], epoch=1)["mask_indices"]
        assert 0 < chosen.sum() < chosen.shape[1]


def test_masks_fit_features_that_fairseq_crops_to_a_multiple():
    model, inputs = ours(crop_seq_to_multiple=4), batch((16000, 12000))  # 49 frames, of which it keeps 48
    chosen = model._masks(inputs["source"], inputs["padding_mask"], inputs["utterances"], epoch=1)["mask_indices"]
    assert chosen.shape == (2, 48)
    assert model(**inputs)["x"].isfinite().any()


def test_hidden_features_can_be_had_without_masks():
    assert ours().extract_features(torch.randn(1, 16000), None)["x"].shape == (1, 49, 16)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mixer": "typo"}, "mixer must be one of"),
        ({"look_ahead": -1}, "look_ahead"),
        ({"hop": 0}, "hop"),
        ({"attention_dropout": 0.1}, "attention_dropout must be 0 for llsa"),
        ({"mixer": "sa", "look_ahead": [1, 2, 3]}, "one per layer"),
        ({"positions": "conv"}, "sees the whole utterance"),
        ({"normalize_waveform": True}, "sees the whole utterance"),
        ({"layer_type": "conformer"}, "layer_type"),
        ({"checkpoint_activations": True}, "model.checkpoint_activations must be False, got True"),
        ({"mask_channel_before": True}, "operating-system entropy"),
        ({"no_mask_overlap": True}, "numpy >= 1.24"),
        ({"mask_selection": "uniform"}, "static, normal or poisson"),
        ({"mask_channel_selection": "uniform"}, "static, normal or poisson"),
    ],
    ids=str,
)
def test_a_mistake_is_named(changes, message):
    with pytest.raises(ValueError, match=message) as error:
        ours(**changes)
    assert "\n" not in str(error.value)


def test_another_models_checkpoint_is_refused_in_one_line():
    with pytest.raises(ValueError, match=r"it also has encoder.pos_conv.0.bias.*positions\)") as error:
        ours(**STYLES["large"]).load_state_dict(stock(**STYLES["large"]).state_dict())
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=r"it lacks encoder.layers.2"):
        ours(encoder_layers=3).load_state_dict(ours().state_dict())
    with pytest.raises(ValueError, match=r"encoder.layers.0.fc1.weight is \[32, 16\], expected \[64, 16\] \(6 such\)"):
        ours(encoder_ffn_embed_dim=64).load_state_dict(ours().state_dict())


DRAWN = {"restricted": 0.7, "hop": [2, 6], "limited": 0.5, "look_back_blocks": [1, 3]}


def reaches_of(model, epochs, **changes):
    """The reach that the stack is called under for the same batch in some epochs, which begin with an update each."""
    seen, context = [], model.speech_encoder.context
    forward = context.forward
    context.forward = lambda x, lengths, reach: seen.append(reach) or forward(x, lengths, reach)
    inputs = batch() | changes
    for epoch in epochs:
        model.set_num_updates(epoch)
        model(**inputs, epoch=epoch)
    return seen


def test_in_training_each_batch_draws_its_reach_by_seed_epoch_and_utterances_and_else_it_is_the_configured_one():
    model = ours(mixer="chunked", block="conformer", conv_kernel=5, hop=4, drawn=DRAWN).train()
    seen, drawn = reaches_of(model, range(1, 13)), model.speech_encoder.config.drawn_reach
    assert seen == [drawn.draw("chunked", 1, epoch, 7, 8) for epoch in range(1, 13)]
    assert len(set(seen)) > 5 and Everything() in seen
    assert reaches_of(model.eval(), range(1, 4)) == [None] * 3
    fixed = ours(mixer="chunked", block="conformer", conv_kernel=5, hop=4).train()
    assert reaches_of(fixed, range(1, 4)) == [None] * 3


def test_where_a_task_does_not_say_the_utterances_each_update_draws_its_reach():
    model = ours(mixer="chunked", block="conformer", conv_kernel=5, hop=4, drawn=DRAWN).train()
    seen, drawn = reaches_of(model, range(1, 13), utterances=None), model.speech_encoder.config.drawn_reach
    assert seen == [drawn.draw("chunked", 1, update) for update in range(1, 13)] and len(set(seen)) > 5

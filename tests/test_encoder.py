# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from encoders import CONFIGS, CONFORMER, SMALL, small_encoder
from headrace import Band, Blocks, EncoderConfig, Everything, SpeechEncoder
from headrace.checkpoint import save
from headrace.config import is_acausal
from headrace.latency import Claim
from headrace.ops.layout import lay_out, read_back
from headrace.positions import rotary, rotate
from headrace.reach import look_ahead

each_config = pytest.mark.parametrize("changes", CONFIGS.values(), ids=CONFIGS)


@each_config
def test_an_item_alone_and_in_a_batch_with_longer_ones_gives_the_same_frames(changes):
    torch.manual_seed(0)
    encoder = small_encoder(**changes)
    num_samples = torch.tensor([9000, 5000, 700, 30])
    waveforms = torch.randn(4, 9000, dtype=torch.float64)
    batch = encoder(waveforms, num_samples)
    for n, samples in enumerate(num_samples):
        alone = encoder(waveforms[n : n + 1, :samples])
        assert alone.lengths[0] == batch.lengths[n]
        for one, many in zip(alone.hidden_states, batch.hidden_states, strict=True):
            assert torch.allclose(one[0], many[n, : alone.lengths[0]], atol=1e-12)
            assert not many[n, alone.lengths[0] :].any()
        assert torch.allclose(alone.last_hidden_state[0], batch.last_hidden_state[n, : alone.lengths[0]], atol=1e-12)


@each_config
def test_each_layer_sees_exactly_the_frames_that_its_reach_claims(changes):
    torch.manual_seed(0)
    encoder = small_encoder(**changes)
    x = torch.randn(1, 30, 16, dtype=torch.float64, requires_grad=True)
    hidden_states = encoder.context(x)
    convolved = encoder.config.positions != "rotary"
    is_chosen = encoder.config.mixer == "deformable"  # frames choose where they look, within their reach
    for depth, layer in enumerate(hidden_states):
        stack = encoder.config.stack_under(encoder.config.reaches[:depth])
        for t in (0, 13, 14, 15, 29):
            (gradient,) = torch.autograd.grad(layer[0, t] @ torch.randn(16, dtype=x.dtype), x, retain_graph=True)
            seen = gradient[0].abs().sum(-1).nonzero().flatten()
            last = stack.last(t)
            if is_chosen:
                assert stack.first(t) <= seen[0] and seen[-1] <= last
                continue
            if encoder.config.positions != "conv":
                assert seen[-1] == min(29, t + 30 if last is None else last)
            if not convolved:
                assert seen[0] == stack.first(t)


@pytest.mark.parametrize("mixer", ["llsa", "sa"])
def test_look_ahead_over_twelve_layers(mixer):
    torch.manual_seed(0)
    encoder = small_encoder(mixer=mixer, num_layers=12)
    x = torch.randn(1, 40, 16, dtype=torch.float64, requires_grad=True)
    for depth, layer in enumerate(encoder.context(x)[1:], start=1):
        (gradient,) = torch.autograd.grad(layer[0, 10] @ torch.randn(16, dtype=x.dtype), x, retain_graph=True)
        ahead = int(gradient[0].abs().sum(-1).nonzero().max()) - 10
        assert ahead == (2 if mixer == "llsa" else 2 * depth)


def test_masked_equals_sa_through_twelve_layers_with_gradients():
    torch.manual_seed(0)
    masked = small_encoder(mixer="masked", num_layers=12)
    sa = small_encoder(mixer="sa", num_layers=12)
    sa.load_state_dict(masked.state_dict())
    waveforms = torch.randn(2, 12000, dtype=torch.float64)
    gradients = []
    for encoder in (masked, sa):
        out = encoder(waveforms, torch.tensor([12000, 8000]))
        out.last_hidden_state.square().sum().backward()
        gradients.append([out.last_hidden_state, *(p.grad for p in encoder.parameters() if p.grad is not None)])
    for a, b in zip(*gradients, strict=True):
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-9)


def test_llsa_of_one_layer_equals_sa():
    torch.manual_seed(0)
    sa, llsa = small_encoder(mixer="sa", num_layers=1), small_encoder(mixer="llsa", num_layers=1)
    x = torch.randn(2, 25, 16, dtype=torch.float64)
    lengths = torch.tensor([25, 11])
    for a, b in zip(sa.context(x, lengths), llsa.context(x, lengths), strict=True):
        assert torch.allclose(a, b, atol=1e-12)


@pytest.mark.parametrize(
    "changes", [c for n, c in CONFIGS.items() if "llsa" in n], ids=[n for n in CONFIGS if "llsa" in n]
)
@pytest.mark.parametrize("num_layers", [1, 2, 3])
def test_rows_that_no_one_reads_are_left_out_and_change_nothing(changes, num_layers):
    encoder = small_encoder(**changes, num_layers=num_layers).context
    x, lengths = torch.randn(2, 13, 16, dtype=torch.float64), torch.tensor([13, 8])
    blocks = encoder.config.reaches[0]
    got = encoder(x, lengths)
    rows, rotation = lay_out(got[0], blocks), encoder._rotation(13, blocks, x)
    for layer, hidden in zip(encoder.layers, got[1:], strict=True):
        rows = layer(rows, lengths, blocks, rotation)
        frames = read_back(rows, blocks, 13)
        assert torch.allclose(frames[0], hidden[0], atol=1e-12) and torch.allclose(
            frames[1, :8], hidden[1, :8], atol=1e-12
        )


def test_no_lengths_means_that_all_frames_exist_and_no_others():
    encoder = small_encoder(mixer="llsa", hop=4).context
    x = torch.randn(1, 9, 16, dtype=torch.float64)
    for a, b in zip(encoder(x), encoder(x, torch.tensor([9])), strict=True):
        assert torch.equal(a, b)


def test_weights_move_between_attention_mixers_without_renaming():
    states = [small_encoder(mixer=mixer).state_dict() for mixer in ("full", "masked", "sa", "llsa")]
    assert len({tuple((name, tensor.shape) for name, tensor in state.items()) for state in states}) == 1


@pytest.mark.parametrize("mixer", ["masked", "sa", "llsa"])
def test_a_streaming_encoder_runs_offline_as_the_acausal_one(mixer):
    torch.manual_seed(0)
    streaming, full = small_encoder(mixer=mixer), small_encoder(mixer="full")
    waveforms = torch.randn(2, 6000, dtype=torch.float64)
    a, b = streaming(waveforms, reach=Everything()), full(waveforms)
    assert all(torch.allclose(x, y, atol=1e-12) for x, y in zip(a.hidden_states, b.hidden_states, strict=True))


def test_a_wide_reach_equals_the_acausal_encoder():
    torch.manual_seed(0)
    x = torch.randn(1, 20, 16, dtype=torch.float64)
    expected = small_encoder(mixer="full").context(x)[-1]
    assert torch.allclose(small_encoder(mixer="sa").context(x, reach=Band(20, None))[-1], expected, atol=1e-12)
    wide = small_encoder(mixer="llsa", hop=20).context
    assert torch.allclose(wide(x, reach=Blocks(0, None, 20))[-1], expected, atol=1e-12)


@settings(max_examples=30)
@given(st.integers(0, 2500))
def test_frames_of_any_number_of_samples(samples):
    encoder = small_encoder()
    out = encoder(torch.zeros(1, samples, dtype=torch.float64))
    expected = max(0, (samples - encoder.frontend.window_samples) // encoder.frontend.stride_samples + 1)
    assert out.lengths.tolist() == [expected] and all(h.shape == (1, expected, 16) for h in out.hidden_states)


def test_an_empty_batch_has_empty_hidden_states():
    out = small_encoder()(torch.zeros(0, 3000, dtype=torch.float64))
    assert out.last_hidden_state.shape == (0, 9, 16) and out.lengths.shape == (0,)


def test_wav2vec2_front_end_has_the_window_and_stride_of_the_paper():
    frontend = SpeechEncoder(EncoderConfig(num_layers=1, embed_dim=16, ffn_dim=16, num_heads=2)).frontend
    assert (frontend.window_samples, frontend.stride_samples) == (400, 320)


def test_rotary_angles_are_exact_at_hour_ten():
    frames = torch.tensor([0, 10 * 3600 * 50])
    q, k = (torch.randn(1, 1, 1, 64, dtype=torch.float64) for _ in range(2))
    scores = []
    for start in frames:
        a, b = (rotary((start + shift)[None], 64, torch.float32) for shift in (0, 17))
        scores.append((rotate(q.float(), a) * rotate(k.float(), b)).sum())
    assert torch.allclose(scores[0], scores[1], atol=1e-5)


def test_latency_is_claimed_only_where_nothing_sees_the_whole_utterance():
    claims = {}
    for name, changes in CONFIGS.items():
        config = EncoderConfig(**{**SMALL, **changes})
        claims[name] = None if is_acausal(config) else look_ahead(config.stack)
    assert claims == {
        **dict.fromkeys(["full", "full conv", "full group norm"]),
        **dict.fromkeys(["masked", "masked causal_conv", "sa", "sa causal_conv", "sa unbounded"], 6),
        "sa per layer": 4,
        **dict.fromkeys(["llsa", "llsa norm first", "llsa causal_conv"], 2),
        "llsa hop 4": 5,
        "llsa hop 3 no look-ahead": 2,
        "conformer full": None,
        **dict.fromkeys(
            [
                "chunked",
                "summary lite",
                "deformable",
                "conformer chunked",
                "conformer chunked relative",
                "conformer summary",
            ],
            3,
        ),
        **dict.fromkeys(["chunked unbounded", "summary", "conformer summary full"], 2),
        "conformer chunked causal_conv": 1,
        "conformer chunked log_mel": 3,
        "conformer none log_mel": 1,
        "conformer deformable": 5,
        "conformer none": 5,
        "conformer none, chunk of 1": 0,
        "conformer summary unbounded": 3,
    }


def test_none_without_chunks_claims_what_its_convolutions_see(tmp_path):
    encoder = small_encoder(**CONFORMER, mixer="none", hop=None, dtype=torch.float32)
    ahead = encoder.config.num_layers * (encoder.config.conv_kernel // 2)
    assert look_ahead(encoder.config.stack) == ahead
    assert Claim.of(encoder).wait_ms(encoder.config.num_layers) == ahead * 20 + encoder.frontend.window_samples / 16
    save(encoder, tmp_path / "encoder")
    assert (
        f"{ahead} frames = {ahead * 20} ms (without chunks not for live use)"
        in (tmp_path / "encoder" / "README.md").read_text()
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mixer": "typo"}, ["mixer", "full, masked, sa, llsa", "'typo'"]),
        ({"block": "conformer"}, ["mixer='llsa'", "block='conformer'", "chunked", "block='transformer'"]),
        ({"block": "conformer", "mixer": "sa"}, ["mixer='sa'", "sa's look-ahead in each layer"]),
        ({"mixer": "none"}, ["mixer='none'", "no frames", "block='conformer'"]),
        ({"mixer": "chunked", "hop": 0}, ["hop", "0"]),
        ({"mixer": "chunked", "look_back": -1}, ["look_back", "-1"]),
        ({"mixer": "chunked", "look_ahead": [1, 2, 3]}, ["look_ahead", "chunked", "[1, 2, 3]"]),
        ({"block": "conformer", "mixer": "chunked", "conv_kernel": 4}, ["conv_kernel", "odd", "4"]),
        ({"block": "conformer", "mixer": "none", "conv_kernel": 1}, ["conv_kernel", "3 or more", "none", "1"]),
        ({"mixer": "chunked", "trained_hops": [8]}, ["trained_hops", "two whole numbers", "[8]"]),
        ({"mixer": "chunked", "trained_hops": [8, 4]}, ["trained_hops", "rise", "[8, 4]"]),
        ({"mixer": "sa", "positions": "relative"}, ["positions='relative'", "chunked", "sa"]),
        ({"mixer": "summary", "summary": "typo"}, ["summary", "full, lite, fast", "'typo'"]),
        ({"look_ahead": -1}, ["look_ahead", "-1", ">= 0"]),
        ({"look_back": -3}, ["look_back", "-3"]),
        ({"hop": 0}, ["hop", "0"]),
        ({"look_ahead": [1, 2, 3]}, ["look_ahead", "llsa", "[1, 2, 3]"]),
        ({"mixer": "sa", "look_ahead": [1, 2]}, ["one per layer (3)", "2"]),
        ({"embed_dim": 15}, ["embed_dim 15", "num_heads"]),
        ({"num_heads": 16}, ["even head dimension"]),
        ({"positions": "conv"}, ["positions='conv'", "latency", "mixer='full'"]),
        ({"conv_norm": "group_norm"}, ["conv_norm='group_norm'", "layer_norm"]),
        ({"normalize_waveform": True}, ["normalize_waveform"]),
        ({"attention_dropout": 0.1}, ["attention_dropout", "llsa", "0.1"]),
        ({"dropout": 1.0}, ["dropout", "[0, 1)"]),
        ({"conv_layers": []}, ["conv_layers"]),
        ({"num_layers": 0}, ["num_layers", "0"]),
    ],
    ids=lambda x: "-".join(map(str, x)) if isinstance(x, dict) else None,
)
def test_bad_configurations_are_named_with_what_to_do(changes, words):
    with pytest.raises(ValueError) as caught:
        EncoderConfig(**{**SMALL, **changes})
    assert all(word in str(caught.value) for word in words), str(caught.value)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda e: e(torch.zeros(800)), ["waveforms", "[N, samples]", "(800,)"]),
        (lambda e: e(torch.zeros(1, 800, dtype=torch.int16)), ["int16", "32768"]),
        (lambda e: e(torch.zeros(1, 800).double(), torch.tensor([900])), ["num_samples", "0..800", "900"]),
        (lambda e: e(torch.zeros(1, 800).double(), torch.tensor([800.0])), ["num_samples", "int64"]),
        (lambda e: e(torch.zeros(1, 800).double(), reach=Band(1, 2)), ["runs under Blocks or Everything", "Band"]),
        (lambda e: e(torch.zeros(1, 800).double(), reach=[Blocks(1, 2)]), ["one per layer (3)", "1"]),
    ],
    ids=["one dimension", "integers", "too many samples", "float samples", "wrong reach", "too few reaches"],
)
def test_wrong_inputs_are_named_with_what_came(call, words):
    with pytest.raises(ValueError) as caught:
        call(small_encoder())
    assert all(word in str(caught.value) for word in words), str(caught.value)

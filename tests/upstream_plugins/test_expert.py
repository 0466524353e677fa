# SPDX-License-Identifier: Apache-2.0
"""What s3prl asks of an upstream: L+1 hidden states, a frame rate, lengths that both of its featurizers accept."""

import subprocess
import sys

import pytest
import torch

import encoders
from headrace import checkpoint
from headrace_upstream.expert import EncoderUpstream, UpstreamExpert
from headrace_upstream.register import register

ALL_LENGTHS = range(1, 2001)  # samples


def noise(*lengths, dtype=torch.float64):
    return [torch.randn(length, dtype=dtype) for length in lengths]


def test_hidden_states_are_those_of_every_layer(encoder):
    out = EncoderUpstream(encoder)(noise(4000, 3000, dtype=torch.float32))
    states = out["hidden_states"]
    assert [tuple(state.shape) for state in states] == [(2, 13, 16)] * (encoder.config.num_layers + 1)
    assert out["last_hidden_state"] is states[-1]
    assert all(out[f"hidden_state_{layer}"] is state for layer, state in enumerate(states))


@pytest.mark.parametrize("stride", [160, 320])
def test_the_downsample_rate_is_the_stride_of_the_encoder(stride):
    conv_layers = [[16, 10, 5], [16, 8, 8], [16, 8, stride // 40]]
    upstream = EncoderUpstream(encoders.small_encoder(conv_layers=conv_layers))
    assert upstream.get_downsample_rates("hidden_states") == stride
    assert upstream(noise(10 * stride + 1))["last_hidden_state"].shape[1] == 11


@pytest.mark.parametrize("changes", encoders.CONFIGS.values(), ids=encoders.CONFIGS)
def test_an_item_alone_and_in_a_batch_has_the_same_frames(changes):
    upstream = EncoderUpstream(encoders.small_encoder(**changes))
    stride = upstream.get_downsample_rates("hidden_states")
    assert stride == (640 if changes.get("frontend") == "log_mel" else 320)
    wavs = noise(1, stride - 1, stride, stride + 1, 1999, 5000)
    together = upstream(wavs)["hidden_states"]
    for index, wav in enumerate(wavs):
        num_frames = -(-len(wav) // stride)
        for layer, alone in enumerate(upstream([wav])["hidden_states"]):
            assert alone.shape[1] == num_frames
            torch.testing.assert_close(together[layer][index, :num_frames], alone[0], rtol=1e-12, atol=1e-12)
            assert not together[layer][index, num_frames:].any()


def test_only_the_frames_that_need_it_see_padding(encoder):
    """An utterance of whole windows gets the encoder's own frames, and the one frame that it lacked."""
    encoder, window = encoders.small_encoder(mixer="sa", look_ahead=0), 325
    wav = noise(9 * 320 + window)[0]
    own = encoder(wav[None]).hidden_states[-1]
    ours = EncoderUpstream(encoder)([wav])["last_hidden_state"]
    assert own.shape[1] == 10
    assert ours.shape[1] == 11
    torch.testing.assert_close(ours[:, :10], own, rtol=1e-12, atol=1e-12)


def test_waveforms_are_normalised_for_an_encoder_that_wants_it():
    changes = {"mixer": "full", "positions": "conv"}
    raw = EncoderUpstream(encoders.small_encoder(**changes))
    normalising = EncoderUpstream(encoders.small_encoder(**changes, normalize_waveform=True))
    wavs = [3 * wav + 1 for wav in noise(3200, 2000)]
    expected = raw([(wav - wav.mean()) / wav.std(correction=0) for wav in wavs])["last_hidden_state"]
    torch.testing.assert_close(normalising(wavs)["last_hidden_state"], expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(raw(wavs)["last_hidden_state"], expected, atol=1e-2)


@pytest.fixture(scope="module")
def quick():
    """One layer, and the stride and window of wav2vec 2.0 in one convolution: thousands of runs take seconds."""
    return encoders.small_encoder(torch.float32, conv_layers=[[8, 400, 320]], num_layers=1, mixer="sa")


@pytest.mark.parametrize("together", [1, 50], ids=["alone", "in a batch"])
@pytest.mark.s3prl
def test_the_runners_featurizer_accepts_every_length(quick, s3prl_module, together):
    upstream = EncoderUpstream(quick)
    featurizer = s3prl_module("s3prl.upstream.interfaces").Featurizer(upstream, upstream_device="cpu")
    assert (featurizer.layer_num, featurizer.output_dim, featurizer.downsample_rate) == (2, 16, 320)
    with torch.no_grad():
        for lengths in torch.tensor(ALL_LENGTHS).split(together):
            wavs = noise(*lengths.tolist(), dtype=torch.float32)
            features = featurizer(wavs, upstream(wavs))
            assert [len(feature) for feature in features] == [round(len(wav) / 320) for wav in wavs]


@pytest.mark.parametrize("together", [1, 50], ids=["alone", "in a batch"])
@pytest.mark.s3prl
def test_s3prl_nn_accepts_every_length(quick, tmp_path, s3prl_module, together):
    nn = s3prl_module("s3prl.nn")
    register()
    checkpoint.save(quick, tmp_path / "quick")
    upstream = nn.S3PRLUpstream("headrace_local", path_or_url=str(tmp_path / "quick")).eval()
    featurizer = nn.Featurizer(upstream)
    assert (upstream.num_layers, upstream.hidden_sizes, upstream.downsample_rates) == (2, [16] * 2, [320] * 2)
    with torch.no_grad():
        for lengths in torch.tensor(ALL_LENGTHS).split(together):
            wavs = torch.nn.utils.rnn.pad_sequence(noise(*lengths.tolist(), dtype=torch.float32), batch_first=True)
            features, num_frames = featurizer(*upstream(wavs, lengths))
            assert num_frames.tolist() == [-(-length // 320) for length in lengths.tolist()]
            assert features.shape[1] == num_frames.max()


@pytest.mark.s3prl
def test_s3prl_nn_hands_on_what_the_expert_computes(encoder, folder, s3prl_module):
    nn = s3prl_module("s3prl.nn")
    register()
    upstream = nn.S3PRLUpstream("headrace_local", path_or_url=str(folder)).eval()
    wavs, lengths = torch.randn(2, 4001), torch.tensor([4001, 1600])
    states, num_frames = upstream(wavs, lengths)
    expected = EncoderUpstream(encoder)([wavs[0], wavs[1, :1600]])["hidden_states"]
    assert [n.tolist() for n in num_frames] == [[13, 5]] * 4
    for ours, theirs in zip(expected, states, strict=True):
        torch.testing.assert_close(theirs, ours)


@pytest.mark.parametrize(
    ("wav", "reason"),
    [(torch.zeros(0), r"wavs\[1\].*at least one sample.*\(0,\)"), (torch.zeros(2, 800), r"wavs\[1\].*\(2, 800\)")],
    ids=["empty", "two channels"],
)
def test_a_bad_waveform_is_named(encoder, wav, reason):
    with pytest.raises(ValueError, match=reason):
        EncoderUpstream(encoder)([torch.zeros(800), wav])


def test_an_encoder_for_another_sample_rate_is_refused():
    with pytest.raises(ValueError, match=r"16000 Hz.*8000 Hz"):
        EncoderUpstream(encoders.small_encoder(sample_rate=8000))


@pytest.mark.parametrize(
    ("ckpt", "model_config", "reason"),
    [
        (None, None, "-k.*none was given"),
        ("https://example.org/llsa.zip", None, "headrace_url"),
        ("no/such/folder", None, "neither a portable folder nor a hub id"),
        ("anything", "conf.yaml", "-g.*conf.yaml.*headrace export"),
    ],
    ids=["nothing", "a URL", "no such path", "a model config"],
)
def test_what_cannot_be_loaded_says_why(ckpt, model_config, reason):
    with pytest.raises(ValueError, match=reason):
        UpstreamExpert(ckpt, model_config)


def test_the_checkout_serves_torch_hub_where_nothing_of_s3prl_is_installed(folder, repository, tmp_path):
    code = """
import sys
sys.modules["s3prl"] = sys.modules["torchaudio"] = None
import torch
upstream = torch.hub.load(sys.argv[1], "headrace_local", ckpt=sys.argv[2], source="local")
print(len(upstream([torch.zeros(700)])["hidden_states"]))
"""
    command = [sys.executable, "-P", "-c", code, str(repository), str(folder)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout == "4\n", done.stderr

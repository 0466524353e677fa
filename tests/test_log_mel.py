# SPDX-License-Identifier: Apache-2.0
"""The log-mel front-end: the papers' features, of which no frame sees a sample behind its own last one."""

import numpy as np
import pytest
import torch

from encoders import LOG_MEL, small_encoder
from headrace import EncoderConfig, checkpoint, log_mel
from headrace.certificate import certify
from headrace.checkpoint import from_fairseq, to_fairseq, to_transformers
from headrace.export import export, untrained
from headrace.frontends import FRONTENDS
from headrace.int8 import to_int8
from headrace.log_mel import LogMel, LogMelFrontend, mel_filters

CHUNKED = {**LOG_MEL, "block": "conformer", "conv_kernel": 5, "mixer": "chunked", "hop": 4, "look_back": 8}
SIZES = {"as in the papers": (80, [64, 32]), "small": (13, [6, 4]), "20 ms": (20, [5]), "80 ms": (20, [4, 3, 2])}


def frontend_of(num_mels=20, mel_channels=(6, 4), sample_rate=16000):
    torch.manual_seed(0)
    frontend = LogMelFrontend(num_mels, mel_channels, sample_rate).double()
    frontend.log_mel.mean.normal_()
    frontend.log_mel.std.uniform_(0.5, 2)
    return frontend


def noise(num_samples, rows=1):
    return torch.randn(rows, num_samples, dtype=torch.float64)


# ---- log-mel ----


def triangles(num_mels, sample_rate, fft):
    """HTK's mel filters, one bin of one band at a time."""
    top = 2595 * np.log10(1 + sample_rate / 2 / 700)
    corners = [700 * (10 ** (top * i / (num_mels + 1) / 2595) - 1) for i in range(num_mels + 2)]
    filters = np.zeros((fft // 2 + 1, num_mels))
    for k in range(fft // 2 + 1):
        hertz = k * sample_rate / fft
        for m, (low, peak, high) in enumerate(zip(corners, corners[1:], corners[2:], strict=False)):
            if low < hertz <= peak:
                filters[k, m] = (hertz - low) / (peak - low)
            elif peak < hertz < high:
                filters[k, m] = (high - hertz) / (high - peak)
    return filters


@pytest.mark.parametrize(("num_mels", "sample_rate", "fft"), [(80, 16000, 512), (40, 8000, 256), (80, 24000, 1024)])
def test_filters_are_triangles_on_htks_mel_scale(num_mels, sample_rate, fft):
    found = mel_filters(num_mels, sample_rate)
    np.testing.assert_allclose(found.numpy(), triangles(num_mels, sample_rate, fft), atol=1e-6)
    assert (found.amax(0) > 0).all()


def test_filters_are_torchaudios():
    pytest.importorskip("headrace_downstream.compat").install()  # stands in for what torchaudio lacks on CPU-only torch
    functional = pytest.importorskip("torchaudio.functional")
    theirs = functional.melscale_fbanks(257, 0.0, 8000.0, 80, 16000, norm=None, mel_scale="htk")
    torch.testing.assert_close(mel_filters(80, 16000), theirs, atol=1e-5, rtol=1e-5)


def test_a_log_mel_is_the_logarithm_of_the_power_in_each_band():
    samples = noise(512 + 3 * 160)
    found = LogMel(20, 16000).double().raw(samples)[0]
    window = 0.54 - 0.46 * np.cos(2 * np.pi * np.arange(512) / 512)  # Hamming, periodic
    for m in range(4):
        power = np.abs(np.fft.fft(samples[0, m * 160 : m * 160 + 512].numpy() * window)[:257]) ** 2
        np.testing.assert_allclose(found[m].numpy(), np.log(power @ triangles(20, 16000, 512)), rtol=1e-5)


def test_digital_silence_has_a_logarithm_and_a_gradient():
    samples = torch.zeros(1, 512, dtype=torch.float64, requires_grad=True)
    found = LogMel(20, 16000).double()(samples)
    found.sum().backward()
    assert torch.equal(found, torch.full_like(found, 1e-10).log()) and samples.grad.isfinite().all()


def test_statistics_normalise_each_band_and_are_0_and_1_until_measured():
    mel, samples = LogMel(20, 16000).double(), noise(2000)
    raw = mel.raw(samples)
    assert torch.equal(mel(samples), raw)
    mel.mean.copy_(raw.mean((0, 1)))
    mel.std.copy_(raw.std((0, 1), correction=0))
    normalised = mel(samples)
    torch.testing.assert_close(normalised.mean((0, 1)), torch.zeros(20, dtype=torch.float64), atol=1e-9, rtol=0)
    torch.testing.assert_close(normalised.square().mean((0, 1)), torch.ones(20, dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_a_narrow_dtype_leaves_log_mels_and_statistics_alone(dtype):
    frontend, samples = frontend_of().float(), noise(4000).float()
    before = {name: tensor.clone() for name, tensor in frontend.log_mel.state_dict().items()}
    expected = frontend.log_mel(samples)
    frontend.to(dtype)
    assert frontend.conv_layers[0].conv.weight.dtype == dtype
    found = frontend.log_mel(samples)
    assert found.dtype == torch.float32 and torch.equal(found, expected)
    assert all(torch.equal(tensor, before[name]) for name, tensor in frontend.log_mel.state_dict().items())
    assert frontend(samples).dtype == dtype


def test_autocast_leaves_log_mels_alone():
    frontend, samples = frontend_of().float(), noise(4000).float()
    expected = frontend.log_mel(samples)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(frontend.log_mel(samples), expected)
        features = frontend(samples)
    torch.testing.assert_close(features.float(), frontend(samples), atol=0.1, rtol=0.1)


# ---- frames ----


@pytest.mark.parametrize(("num_mels", "mel_channels"), SIZES.values(), ids=SIZES)
def test_a_frame_is_what_the_convolutions_make_of_its_log_mels(num_mels, mel_channels):
    frontend, waveform = frontend_of(num_mels, mel_channels), noise(8000)
    found = frontend(waveform)
    # a log-mel every 10 ms, of the window that ends there, with silence before the first sample
    padded = torch.nn.functional.pad(waveform, (frontend.past_samples, 0))
    x = frontend.log_mel(padded)[:, None]
    for layer in frontend.conv_layers:
        x = torch.nn.functional.conv2d(x, layer.conv.weight, layer.conv.bias, stride=2, padding=(0, 1))
        norm = layer.norm
        mean, variance = x.mean((1, 3), keepdim=True), x.var((1, 3), keepdim=True, correction=0)
        x = (x - mean) / (variance + norm.eps).sqrt() * norm.weight[:, None] + norm.bias[:, None]
        x = torch.nn.functional.gelu(x)
    expected = x.transpose(1, 2).flatten(2)
    assert found.shape == (1, 8000 // frontend.stride_samples, frontend.num_channels)
    torch.testing.assert_close(found, expected[:, : found.shape[1]], atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("sample_rate", [8000, 16000, 24000])
def test_a_frame_is_40_ms_at_any_sample_rate(sample_rate):
    frontend = frontend_of(sample_rate=sample_rate)
    assert frontend.stride_samples == frontend.window_samples == sample_rate // 25
    assert frontend(noise(sample_rate)).shape[1] == 25


def test_the_papers_sizes_give_640_features_of_640_samples_that_see_832_before():
    config = EncoderConfig(frontend="log_mel")
    frontend = FRONTENDS["log_mel"](config)
    assert (frontend.num_channels, frontend.stride_samples, frontend.past_samples) == (640, 640, 832)


@pytest.mark.parametrize(("num_mels", "mel_channels"), SIZES.values(), ids=SIZES)
def test_a_frame_sees_exactly_the_samples_up_to_its_last(num_mels, mel_channels):
    frontend = frontend_of(num_mels, mel_channels)
    stride = frontend.stride_samples
    waveform = noise(5 * stride + 17).requires_grad_()
    features = frontend(waveform)
    for t in range(5):
        direction = torch.randn(frontend.num_channels, dtype=torch.float64)
        (gradient,) = torch.autograd.grad(features[0, t] @ direction, waveform, retain_graph=True)
        seen = gradient[0].nonzero().flatten()
        assert (int(seen[0]), int(seen[-1])) == (max(0, t * stride - frontend.past_samples), (t + 1) * stride - 1)


def test_what_comes_behind_a_frame_does_not_change_it_by_one_bit_and_its_last_sample_does():
    frontend, waveform = frontend_of(), noise(6 * 640)
    truth = frontend(waveform)
    for t in range(6):
        end = (t + 1) * 640
        behind, last = waveform.clone(), waveform.clone()
        behind[:, end:] = noise(6 * 640 - end)
        last[:, end - 1] += 1
        assert torch.equal(frontend(behind)[:, : t + 1], truth[:, : t + 1])
        assert torch.equal(frontend(last)[:, :t], truth[:, :t]) and not torch.equal(frontend(last)[:, t], truth[:, t])


@pytest.mark.parametrize("num_samples", [0, 1, 639])
def test_an_utterance_shorter_than_a_frame_has_none(num_samples):
    encoder = small_encoder(**CHUNKED)
    out = encoder(noise(num_samples))
    assert out.lengths.tolist() == [0] and out.last_hidden_state.shape == (1, 0, 16)
    state = encoder.init_state()
    assert encoder.step(noise(num_samples), state)[0].lengths.tolist() == [0]
    assert encoder.finish(state)[0].lengths.tolist() == [0]


def test_an_empty_batch_has_empty_features():
    assert frontend_of()(torch.zeros(0, 2000, dtype=torch.float64)).shape == (0, 3, 20)


@pytest.mark.parametrize("block_frames", [1, 3, 7])
def test_blocks_of_time_change_nothing_and_gradients_go_through(block_frames, monkeypatch):
    results = []
    for size in (512, block_frames):
        monkeypatch.setattr(log_mel, "BLOCK_FRAMES", size)
        frontend = frontend_of()
        torch.manual_seed(1)
        waveforms = noise(20 * 640 + 100, rows=2).requires_grad_()
        features = frontend(waveforms)
        (features * torch.randn_like(features)).sum().backward()
        results.append([features, waveforms.grad, *(parameter.grad for parameter in frontend.parameters())])
    for whole, blocks in zip(*results, strict=True):
        torch.testing.assert_close(blocks, whole, atol=1e-10, rtol=1e-10)


def test_a_long_utterance_is_never_in_memory_as_windows_of_all_of_it(monkeypatch):
    frontend, counts = frontend_of().float(), []
    raw = LogMel.raw
    monkeypatch.setattr(LogMel, "raw", lambda self, samples: counts.append(samples.shape[1]) or raw(self, samples))
    minutes = torch.zeros(1, 3 * 60 * 16000)
    with torch.no_grad():
        assert frontend(minutes).shape[1] == 3 * 60 * 25
    assert max(counts) <= 512 * 640 + 832 and len(counts) == 9


# ---- what knows of front-ends ----


def test_statistics_and_weights_come_back_from_a_folder_and_from_fairseqs_format(tmp_path):
    encoder = small_encoder(torch.float32, **CHUNKED)
    encoder.frontend.log_mel.mean.normal_()
    encoder.frontend.log_mel.std.uniform_(0.5, 2)
    checkpoint.save(encoder, tmp_path / "folder")
    to_fairseq(encoder, tmp_path / "checkpoint.pt")
    for again in (checkpoint.load(tmp_path / "folder"), from_fairseq(tmp_path / "checkpoint.pt")):
        assert again.config == encoder.config
        found = again.state_dict()
        assert {"frontend.log_mel.mean", "frontend.log_mel.std"} <= found.keys()
        assert all(torch.equal(found[name], tensor) for name, tensor in encoder.state_dict().items())
    card = (tmp_path / "folder" / "README.md").read_text()
    assert "one frame every 40 ms (front-end: log_mel)" in card


def test_an_untrained_twin_keeps_what_was_measured_and_nothing_that_was_learned(tmp_path):
    encoder = small_encoder(torch.float32, **CHUNKED)
    encoder.frontend.log_mel.mean.normal_()
    to_fairseq(encoder, tmp_path / "checkpoint.pt")
    twin = export(tmp_path / "checkpoint.pt", tmp_path / "twin", untrained_seed=3).encoder
    expected = untrained(encoder.config, 3).state_dict() | encoder.frontend.log_mel.state_dict(
        prefix="frontend.log_mel."
    )
    assert all(torch.equal(expected[name], tensor) for name, tensor in twin.state_dict().items())
    saved = checkpoint.load(tmp_path / "twin").frontend.log_mel
    assert torch.equal(saved.mean, encoder.frontend.log_mel.mean)


def test_transformers_has_no_such_front_end():
    encoder = small_encoder(torch.float32, mixer="full", positions="conv", **LOG_MEL)
    with pytest.raises(
        ValueError, match=r"on frontend='waveform'; .* frontend='log_mel'. Share it as a portable folder"
    ):
        to_transformers(encoder, "never-written")


def test_a_certificate_says_that_a_chunk_is_known_with_its_last_sample():
    told = certify(small_encoder(torch.float32, **CHUNKED), timed_seconds=0)
    assert told.holds and told.live is not None
    assert [layer.claimed_ms for layer in told.layers] == [40.0, 160.0, 160.0, 160.0]
    assert [layer.observed_ms for layer in told.layers] == pytest.approx([40.0, 160.0, 160.0, 160.0])
    assert [depth.observed_ms for depth in told.depths] == pytest.approx([160.0] * 4)


def test_8_bit_weights_run_on_log_mels():
    encoder, waveform = small_encoder(torch.float32, **CHUNKED, embed_dim=64), noise(9000).float()
    with torch.no_grad():
        exact = encoder(waveform).last_hidden_state
        rounded = to_int8(encoder)(waveform).last_hidden_state
    assert 0 < (rounded - exact).norm() < 0.1 * exact.norm()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"frontend": "typo"}, ["frontend", "waveform, log_mel", "'typo'"]),
        ({"num_mels": 0}, ["num_mels", ">= 1", "0"]),
        ({"num_mels": 200}, ["num_mels=200", "FFT of 512", "fewer"]),
        ({"mel_channels": []}, ["mel_channels", "[64, 32]", "[]"]),
        ({"mel_channels": 64}, ["mel_channels", "[64, 32]", "64"]),
        ({"mel_channels": [64, 0]}, ["mel_channels[1]", ">= 1", "0"]),
        ({"sample_rate": 11025}, ["sample_rate", "multiple of 100", "11025", "resample"]),
        ({"conv_norm": "group_norm", "mixer": "full"}, ["conv_norm='group_norm'", "waveform", "layer_norm"]),
        ({"normalize_waveform": True}, ["normalize_waveform"]),
    ],
    ids=str,
)
def test_bad_values_are_named_with_what_to_do(changes, words):
    with pytest.raises(ValueError) as caught:
        EncoderConfig(**{"frontend": "log_mel", **changes})
    assert all(word in str(caught.value) for word in words), str(caught.value)

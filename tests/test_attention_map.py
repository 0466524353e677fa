# SPDX-License-Identifier: Apache-2.0
"""Attention maps: read off the operations, held against a literal softmax over the layer's own queries and keys."""

import dataclasses
import json
import sys

import numpy as np
import pytest
import soundfile
import torch

from encoders import CONFIGS, small_encoder
from headrace import checkpoint, ops, recordings
from headrace.attention_map import AttentionMeter, attention_weights, even_shares
from headrace.attention_page import block_map, lines
from headrace.attention_report import report_on
from headrace.cli import main
from headrace.mixers import MIXERS
from headrace.mixers.attention import Attention
from headrace.mixers.relative import sinusoids
from headrace.ops import native
from headrace.reach import Band, Blocks, Everything, mask

RATE = 16000
WAVEFORM = {name: changes for name, changes in CONFIGS.items() if "frontend" not in changes}  # attention is behind it
ATTENTION = {name: changes for name, changes in WAVEFORM.items() if issubclass(MIXERS[changes["mixer"]], Attention)}
OTHERS = {changes["mixer"]: changes for name, changes in WAVEFORM.items() if name not in ATTENTION}
every_attention = pytest.mark.parametrize("changes", ATTENTION.values(), ids=ATTENTION)


def samples_of(num_frames):
    return 0 if num_frames == 0 else (num_frames - 1) * 320 + 325


def noise(*num_frames):
    num_samples = torch.tensor([samples_of(n) for n in num_frames])
    return torch.randn(len(num_frames), int(num_samples.max()), dtype=torch.float64), num_samples


def queries_and_keys(encoder, waveforms, num_samples):
    """What each layer's attend is called with: the mixer, q, k, reach."""
    found = []
    for layer in encoder.context.layers:

        def attend(q, k, v, lengths, reach, mixer=layer.mixer):
            found.append((mixer, q, k, reach))
            return type(mixer).attend(mixer, q, k, v, lengths, reach)

        layer.mixer.attend = attend
    with torch.no_grad():
        lengths = encoder(waveforms, num_samples).lengths
    for layer in encoder.context.layers:
        del layer.mixer.attend
    return found, lengths


def row(x, reach, frame, block):
    """[H, D]: a frame as it is known when a block is emitted."""
    if x.dim() == 3:
        return x[:, frame]
    own = frame >= block * reach.hop
    return x[:, block, frame - block * reach.hop] if own else x[:, frame // reach.hop, frame % reach.hop]


def literal_map(mixer, q, k, reach, length, num_frames):
    """[H, T, T] of one item, q and k [H, T, D] or [H, P, rows, D]: a softmax for each query, over all it may see."""
    p = torch.zeros(q.shape[0], num_frames, num_frames, dtype=q.dtype)
    relative = getattr(mixer, "relative", None)
    for t in range(length):
        block = t // reach.hop if isinstance(reach, Blocks) else 0
        seen = mask(reach, length)[t].nonzero()[:, 0].tolist()
        query, keys = row(q, reach, t, block), torch.stack([row(k, reach, s, block) for s in seen], 1)
        scores = torch.einsum("hd,hsd->hs", query, keys)
        if relative is not None:
            between = (torch.tensor(seen) - t).abs()
            distances = relative.distance_proj(sinusoids(between, relative.distance_proj.in_features).to(q))
            scores += torch.einsum("hd,hsd->hs", relative.content_bias, keys)
            wanted, distances = query + relative.distance_bias, distances.unflatten(-1, (q.shape[0], -1))
            scores += torch.einsum("hd,shd->hs", wanted, distances)
        p[:, t, seen] = (scores / q.shape[-1] ** 0.5).softmax(-1)
    return p


@every_attention
@pytest.mark.parametrize("backend", ["torch", "native"])
def test_the_weights_are_those_of_a_literal_softmax_for_ragged_batches_too(changes, backend):
    if backend == "native" and not native.STATUS.is_loaded:
        pytest.skip(native.STATUS.reason)
    encoder = small_encoder(**changes)
    waveforms, num_samples = noise(27, 13, 0, 1)
    with ops.backend(backend), torch.no_grad():
        called, lengths = queries_and_keys(encoder, waveforms, num_samples)
        maps = attention_weights(encoder, waveforms, num_samples)
        assert len(maps) == len(called) == 3 and lengths.tolist() == [27, 13, 0, 1]
        for layer, (mixer, q, k, reach) in zip(maps, called, strict=True):
            assert layer.shape == (4, 2, 27, 27)
            for n, length in enumerate(lengths.tolist()):
                expected = literal_map(mixer, q[n], k[n], reach, length, 27)
                assert torch.allclose(layer[n], expected, rtol=1e-12, atol=1e-12)
                assert torch.allclose(layer[n, :, :length].sum(-1), torch.ones(1).double(), rtol=1e-12)


@every_attention
def test_a_meter_keeps_the_mean_of_the_maps(changes):
    encoder = small_encoder(**changes)
    waveforms, num_samples = noise(27, 13, 0)
    meter = AttentionMeter(encoder, farthest=6)
    for n, many in enumerate(num_samples.tolist()):  # one by one, and then together
        meter.add(waveforms[n : n + 1, :many])
    meter.add(waveforms, num_samples)
    maps = attention_weights(encoder, waveforms, num_samples)
    offset = torch.arange(27) - torch.arange(27)[:, None]
    for layer, weights in zip(meter.layers(), maps, strict=True):
        mean = weights.mean(1)
        for i, found in enumerate(layer.by_offset):
            expected = float(mean[:, offset == layer.first_offset + i].sum() / 40)
            assert found == pytest.approx(expected, abs=1e-12)
        within = [float(mean[:, offset.abs() <= k].sum() / 40) for k in range(7)]
        assert layer.shares == pytest.approx(within, abs=1e-12)
        even = [(m := mask(layer.reach, length).double()) / m.sum(1, True) for length in (27, 13)]
        expected = [sum(float(e[offset[: len(e), : len(e)].abs() <= k].sum()) for e in even) / 40 for k in range(7)]
        assert layer.even_shares == pytest.approx(expected, abs=1e-12)
        assert layer.shares == sorted(layer.shares) and layer.shares[-1] <= 1 + 1e-12
        weights_of_rows = torch.tensor([sum(t % len(layer.rows) == r for n in (27, 13) for t in range(n)) for r in
                                        range(len(layer.rows))]).double()  # fmt: skip
        again = (torch.tensor(layer.rows).double() * weights_of_rows[:, None]).sum(0) / 40
        assert torch.allclose(again, torch.tensor(layer.by_offset).double(), atol=1e-12)


def test_all_attention_lies_on_the_diagonal_where_a_frame_sees_itself_alone():
    encoder = small_encoder(mixer="sa", look_ahead=0, look_back=0)
    meter = AttentionMeter(encoder, farthest=3)
    meter.add(noise(9)[0])
    for layer in meter.layers():
        assert layer.shares == pytest.approx([1] * 4) and layer.even_shares == pytest.approx([1] * 4)
        assert (layer.first_offset, layer.by_offset) == (0, [pytest.approx(1)])


def test_what_a_chunk_gives_equal_weights_is_what_one_counts_by_hand():
    near = sum(abs(s - t) <= 5 for s in range(16) for t in range(16)) / 256
    assert even_shares(Blocks(0, 0, 16, per_block=True), 16)[5] == pytest.approx(near)
    assert even_shares(Everything(), 3, farthest=2) == pytest.approx([1 / 3, 7 / 9, 1])
    assert even_shares(Band(1, 0), 4, farthest=1) == pytest.approx([(3 / 2 + 1) / 4, 1])


def test_rows_of_a_block_are_shown_over_keys_from_its_start():
    encoder = small_encoder(mixer="chunked", hop=4, look_back=8)
    waveforms, num_samples = noise(24)
    meter = AttentionMeter(encoder)
    meter.add(waveforms)
    weights = attention_weights(encoder, waveforms, num_samples)[2][0].mean(0)  # [T, T]
    first, rows = block_map(meter.layers()[2])
    assert len(rows) == 4
    for r in range(4):
        for key in range(-8, 4):
            chunks = [b for b in range(6) if b * 4 + key >= 0]
            expected = sum(float(weights[b * 4 + r, b * 4 + key]) for b in chunks) / 6
            assert rows[r][key - first] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name", ["llsa hop 4", "full", "conformer chunked"])
def test_an_encoder_is_left_as_it_was_after_errors_too(name, monkeypatch):
    encoder = small_encoder(**CONFIGS[name])
    waveforms, _ = noise(9)
    before = encoder(waveforms).last_hidden_state
    own = encoder.context.layers[0].mixer.attend
    encoder.context.layers[0].mixer.attend = own  # somebody else's stays
    with pytest.raises(ValueError, match="waveforms must be"):
        attention_weights(encoder, waveforms[0])
    monkeypatch.setattr(AttentionMeter, "_take", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        AttentionMeter(encoder).add(waveforms)
    assert vars(encoder.context.layers[0].mixer)["attend"] is own
    assert not any("attend" in vars(layer.mixer) for layer in encoder.context.layers[1:])
    assert torch.equal(encoder(waveforms).last_hidden_state, before)
    assert not attention_weights(encoder, waveforms)[0].requires_grad


@pytest.mark.parametrize("mixer", OTHERS)
def test_an_encoder_without_attention_is_refused(mixer):
    with pytest.raises(ValueError, match=f"mixer='{mixer}' has no attention.*full, masked, sa, llsa, chunked"):
        attention_weights(small_encoder(**OTHERS[mixer]), noise(9)[0])


def test_training_mode_nothing_heard_and_negative_distances_are_refused():
    encoder = small_encoder(mixer="sa")
    with pytest.raises(ValueError, match="no frame was added"):
        AttentionMeter(encoder).layers()
    with pytest.raises(ValueError, match="farthest must be 0 or more"):
        AttentionMeter(encoder, -1)
    with pytest.raises(ValueError, match=r"call encoder.eval\(\)"):
        attention_weights(encoder.train(), noise(9)[0])


# ---- recordings and the command ----


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "encoder"
    checkpoint.save(small_encoder(torch.float32, mixer="chunked", hop=4, look_back=8), path)
    return path


@pytest.fixture
def corpus(tmp_path):
    """Two good files, in folders, and one of each kind of bad file."""
    draw = np.random.default_rng(0)

    def write(name, num_samples, rate=RATE, channels=1, subtype="PCM_16"):
        path = tmp_path / "corpus" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, draw.normal(0, 0.1, (num_samples, channels)), rate, subtype=subtype)
        return path

    write("a/one.flac", 20000)
    write("b/two.WAV", 30000)
    write("rate.wav", 9000, rate=8000)
    write("short.wav", 100)
    write("empty.wav", 0)
    write("stereo.wav", 9000, channels=2)
    broken = write("nan.wav", 9000, subtype="FLOAT")
    soundfile.write(broken, np.full(9000, np.nan), RATE, subtype="FLOAT")
    (tmp_path / "corpus" / "torn.wav").write_bytes(b"RIFF")
    (tmp_path / "corpus" / "notes.txt").write_text("no audio")
    return tmp_path / "corpus"


def test_the_command_prints_a_table_and_writes_json_and_a_picture(folder, corpus, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    command = ["attention", str(folder), str(corpus), "--most-seconds", "1.5", "--output", str(tmp_path / "out")]
    assert main(command) == 0
    said = capsys.readouterr()
    assert "2 files (1 cut to 1.5 s), 136 frames" in said.out and "±5 frames (±100 ms)" in said.out
    assert "arXiv 2601.19960" in said.out and "> 80%" in said.out
    reasons = {
        "rate": "has 8000 Hz",
        "short": "is too short: 100 samples",
        "empty": "is empty",
        "torn": "cannot be read",
        "stereo": "has 16000 Hz and 2 channel(s)",
        "nan": "holds NaN",
    }
    for bad, reason in reasons.items():
        assert said.err.count(f"left out: {corpus / bad}.wav {reason}") == 1
    assert "notes.txt" not in said.err
    told = json.loads((tmp_path / "out" / "attention.json").read_text())
    assert told["num_files"] == 2 and told["num_cut"] == 1 and told["num_frames"] == 136 and len(told["left_out"]) == 6
    assert [layer["layer"] for layer in told["layers"]] == [1, 2, 3]
    encoder = checkpoint.load(folder)
    meter = AttentionMeter(encoder)
    for path, many in (("a/one.flac", 20000), ("b/two.WAV", 24000)):
        meter.add(torch.from_numpy(soundfile.read(corpus / path, dtype="float32")[0][None, :many]))
    for layer, expected in zip(told["layers"], meter.layers(), strict=True):
        assert layer["share_within"] == pytest.approx(expected.shares[5], abs=1e-6)
        assert f"{expected.shares[5]:.1%}" in said.out
        assert layer["mean_by_offset"] == pytest.approx(expected.by_offset, abs=1e-6)
        assert len(layer["mean_rows"]) == 4 and layer["shares"][-1] == pytest.approx(1)
    assert (tmp_path / "out" / "attention.png").read_bytes().startswith(b"\x89PNG")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"attention.json", "attention.png"}


@pytest.mark.parametrize("name", ["full", "sa per layer", "llsa", "llsa hop 4", "conformer chunked"])
def test_every_kind_of_map_has_its_picture_beside_the_model_which_can_be_replaced(name, corpus, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    encoder = small_encoder(torch.float32, **CONFIGS[name])
    checkpoint.save(encoder, tmp_path / "model")
    assert main(["attention", str(tmp_path / "model"), str(corpus / "a" / "one.flac"), "--within", "2"]) == 0
    assert "2601.19960" not in capsys.readouterr().out  # which speaks of 5 frames
    assert (tmp_path / "model" / "attention.png").stat().st_size > 10_000
    checkpoint.save(encoder, tmp_path / "model")  # maps go with the weights
    assert not (tmp_path / "model" / "attention.json").exists()


def test_without_matplotlib_the_numbers_are_written_and_an_old_picture_goes(
    folder, corpus, tmp_path, capsys, monkeypatch
):
    (tmp_path / "attention.png").write_bytes(b"of an earlier run")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert main(["attention", str(folder), str(corpus / "a"), "--output", str(tmp_path)]) == 0
    assert "no picture: a picture needs matplotlib" in capsys.readouterr().err
    assert (tmp_path / "attention.json").exists() and not (tmp_path / "attention.png").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["{corpus}/nowhere"], "nowhere is neither a file nor a folder"),
        (["{corpus}/rate.wav", "{corpus}/torn.wav"], "no audio is left of 2 files"),
        (["{corpus}/silent"], "no audio is left of 0 files"),
        (["{corpus}/a", "--within", "-1"], "within must be 0 or more frames, got -1"),
        (["{corpus}/a", "--most-seconds", "0.01"], "at least 0.0203125 s, got 0.01"),
        (["{corpus}/a", "--most-seconds", "nan"], "most_seconds must be a number that holds a frame"),
        (["{corpus}/a", "--most-seconds", "inf"], "most_seconds must be a number that holds a frame"),
    ],
    ids=["path", "all bad", "no audio", "within", "seconds", "nan", "inf"],
)
def test_bad_input_ends_with_one_line_and_writes_nothing(folder, corpus, tmp_path, capsys, arguments, said):
    (corpus / "silent").mkdir()
    arguments = [argument.format(corpus=corpus) for argument in arguments]
    assert main(["attention", str(folder), *arguments, "--output", str(tmp_path / "out")]) == 2
    heard = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("left out: ")]
    assert len(heard) == 1 and heard[0].startswith("headrace attention: ") and said in heard[0]
    assert not list(tmp_path.glob("out/*"))


def test_a_folder_without_attention_is_refused_in_one_line(corpus, tmp_path, capsys):
    checkpoint.save(small_encoder(torch.float32, **CONFIGS["deformable"]), tmp_path / "model")
    assert main(["attention", str(tmp_path / "model"), str(corpus)]) == 2
    assert "headrace attention: an encoder with mixer='deformable' has no attention" in capsys.readouterr().err


def test_the_maps_of_another_reach_need_a_place_of_their_own(corpus, tmp_path, capsys):
    checkpoint.save(small_encoder(torch.float32, **CONFIGS["conformer chunked log_mel"]), tmp_path / "model")
    command = ["attention", str(tmp_path / "model"), str(corpus / "a"), "--hop", "all"]
    assert main(command) == 2
    assert "--output: expected a folder for the maps of another reach" in capsys.readouterr().err
    assert main([*command, "--output", str(tmp_path / "out")]) == 0
    assert main(["attention", str(tmp_path / "model"), str(corpus / "a")]) == 0
    reaches = [json.loads((tmp_path / f / "attention.json").read_text()) for f in ("out", "model")]
    assert reaches[0]["layers"] != reaches[1]["layers"]


def test_files_are_found_once_and_progress_says_how_long_the_rest_takes(corpus, monkeypatch):
    paths = recordings.find([corpus / "a" / "one.flac", corpus])
    assert len(paths) == len(set(paths)) == 8 and paths[0].name == "one.flac"
    clock = iter([0.0, 0.0, 4.0, 6.0, 8.0, 11.5])
    monkeypatch.setattr(recordings.time, "monotonic", lambda: next(clock))
    told = []
    assert list(recordings.counted(paths[:5], told.append)) == paths[:5]
    assert told == ["[0:06, about 0:09 left]  2 of 5 files", "[0:12, about 0:03 left]  4 of 5 files"]


def test_a_normalised_encoder_hears_normalised_waveforms(tmp_path):
    encoder = small_encoder(torch.float32, mixer="full", normalize_waveform=True)
    samples = np.random.default_rng(0).normal(0.1, 0.01, 9000).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", samples, RATE, subtype="FLOAT")
    report = report_on(encoder, [tmp_path / "a.wav"], 5, 20, print, print)
    meter = AttentionMeter(encoder)
    meter.add(torch.from_numpy((samples - samples.mean()) / samples.std())[None])
    found, expected = ([layer.shares for layer in layers] for layers in (report.layers, meter.layers()))
    assert np.allclose(found, expected, atol=1e-4)
    assert lines(dataclasses.replace(report, within=0))[2].startswith("attention within ±0 frames")


def test_a_model_of_a_hub_leaves_no_folder_that_would_be_taken_for_it(folder, corpus, tmp_path, monkeypatch):
    encoder = checkpoint.load(folder)
    monkeypatch.setattr("headrace.cli.load", lambda _, changes: encoder)
    monkeypatch.chdir(tmp_path)
    assert main(["attention", "team/name", str(corpus / "a")]) == 0
    assert (tmp_path / "attention.json").exists() and not (tmp_path / "team").exists()

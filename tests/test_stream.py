# SPDX-License-Identifier: Apache-2.0
"""`headrace stream` and what it is made of: sources, the end of a stream, Ctrl-C, text."""

import io
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import soundfile
import torch

from encoders import small_encoder
from headrace import checkpoint, stream
from headrace.cli import main
from headrace.head import CtcHead, HeadConfig, Transcript, load_head, save_head

RATE = 16000
SYMBOLS = ["<s>", "<pad>", "</s>", "<unk>", "|", "A", "B"]


@pytest.fixture(scope="module")
def encoder():
    return small_encoder(torch.float32, mixer="llsa")


@pytest.fixture(scope="module")
def head():
    config = HeadConfig(
        num_hidden_states=4, embed_dim=16, normalize=True, project_dim=12, dims=[8, 8], layer_norms=[True, False],
        projections=[False, True], symbols=SYMBOLS, blank=0, end=2,
    )  # fmt: skip
    torch.manual_seed(0)
    head = CtcHead(config)
    for parameter in head.parameters():
        parameter.data = 2 * torch.randn_like(parameter)
    return head.eval()


@pytest.fixture
def folder(encoder, tmp_path):
    checkpoint.save(encoder, tmp_path / "encoder")
    return tmp_path / "encoder"


@pytest.fixture(scope="module")
def samples():
    return np.random.default_rng(0).normal(0, 0.1, 3 * RATE + 123).astype(np.float32)


def test_a_file_s_frames_are_those_of_the_whole_utterance(encoder, folder, samples, tmp_path, capsys):
    soundfile.write(tmp_path / "a.wav", samples, RATE, subtype="FLOAT")
    command = ["stream", str(folder), str(tmp_path / "a.wav"), "--fast", "--output", str(tmp_path / "frames.npy")]
    assert main(command) == 0
    whole = encoder(torch.from_numpy(samples)[None]).last_hidden_state[0].detach().numpy()
    assert np.allclose(np.load(tmp_path / "frames.npy"), whole, atol=1e-5)
    said = capsys.readouterr()
    assert "real-time factor" in said.err and f"{len(whole)} frames" in said.err and said.out == ""


def test_a_file_is_paced_in_real_time(encoder, samples):
    chunks = list(stream.paced(np.split(samples[: RATE // 2], 10), RATE))
    start = time.perf_counter()
    assert len(list(stream.paced(chunks, RATE))) == 10
    assert 0.45 < time.perf_counter() - start < 2


def test_raw_samples_come_through_a_pipe_and_half_a_sample_at_its_end_is_left_out(encoder, folder, samples, tmp_path):
    raw = (samples * 32767).astype("<i2")
    command = [sys.executable, "-m", "headrace.cli", "stream", str(folder), "-", "--output", str(tmp_path / "f.npy")]
    done = subprocess.run(command, input=raw.tobytes() + b"\x01", capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    whole = encoder(torch.from_numpy(raw.astype(np.float32) / 32768)[None]).last_hidden_state[0].detach().numpy()
    assert np.allclose(np.load(tmp_path / "f.npy"), whole, atol=1e-5)


def test_ctrl_c_ends_a_stream_cleanly_with_its_tail(folder, samples, tmp_path):
    raw = (samples[:RATE] * 32767).astype("<i2").tobytes()
    command = [sys.executable, "-m", "headrace.cli", "stream", str(folder), "-", "--output", str(tmp_path / "f.npy")]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdin.write(raw)
    process.stdin.flush()
    assert b"frames" in process.stderr.readline()  # a second of audio was taken
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 0 and b"Traceback" not in said
    assert len(np.load(tmp_path / "f.npy")) == 49  # of 16000 samples, the last ones too


@pytest.mark.parametrize(
    ("rate", "channels", "said"),
    [(8000, 1, "has 8000 Hz and 1 channel"), (RATE, 2, "has 16000 Hz and 2 channel")],
    ids=["rate", "stereo"],
)
def test_audio_of_another_kind_is_refused(folder, tmp_path, capsys, rate, channels, said):
    soundfile.write(tmp_path / "a.wav", np.zeros((800, channels)), rate)
    assert main(["stream", str(folder), str(tmp_path / "a.wav")]) == 2
    assert said in capsys.readouterr().err


def test_a_file_that_cannot_be_read_is_refused(folder, tmp_path, capsys):
    (tmp_path / "a.wav").write_bytes(b"RIFF")
    assert main(["stream", str(folder), str(tmp_path / "a.wav")]) == 2
    assert "a.wav cannot be read" in capsys.readouterr().err


def test_samples_that_are_not_numbers_end_it_with_one_line(folder, samples, tmp_path, capsys):
    broken = samples.copy()
    broken[20_000] = np.nan
    soundfile.write(tmp_path / "a.wav", broken, RATE, subtype="FLOAT")
    assert main(["stream", str(folder), str(tmp_path / "a.wav"), "--fast"]) == 2
    assert "hold NaN or infinity" in capsys.readouterr().err


def test_slower_than_real_time_is_said_and_nothing_is_dropped(encoder, folder, samples, tmp_path, capsys, monkeypatch):
    soundfile.write(tmp_path / "a.wav", samples[:RATE], RATE, subtype="FLOAT")
    feed = stream.Session.feed

    def slow(self, chunk):
        time.sleep(0.05)
        return feed(self, chunk)

    monkeypatch.setattr(stream.Session, "feed", slow)
    command = ["stream", str(folder), str(tmp_path / "a.wav"), "--output", str(tmp_path / "frames.npy")]
    assert main(command) == 0
    assert "SLOWER THAN REAL TIME" in capsys.readouterr().err
    assert len(np.load(tmp_path / "frames.npy")) == 49


def test_text_comes_as_it_is_known_and_does_not_depend_on_the_cuts(encoder, head, samples):
    texts = []
    for size in (160, 5000, len(samples)):
        session = stream.Session(encoder, head)
        parts = [session.feed(samples[i : i + size]).text for i in range(0, len(samples), size)]
        texts.append("".join([*parts, session.finish().text]))
        assert texts[-1] == session.text
    assert len(texts[0]) > 5 and texts[0] == texts[1] == texts[2]


def test_a_transcript_leaves_repeats_and_blanks_out():
    config = HeadConfig(1, 1, False, 1, [1], [False], [False], SYMBOLS, 0, 2)
    transcript = Transcript(config)

    def add(*best):
        return transcript.add(torch.nn.functional.one_hot(torch.tensor(best), len(SYMBOLS)).float())

    assert [add(0, 5, 5), add(5, 0, 5), add(4), add(4, 2, 4, 6)] == ["A", "A", "", " B"]
    assert transcript.text == "AA B"


def test_a_head_is_saved_beside_its_encoder_and_read_again(folder, head, samples, encoder, tmp_path, capsys):
    assert load_head(folder) is None
    save_head(head, folder)
    again = load_head(folder)
    states = [torch.randn(1, 7, 16) for _ in range(4)]
    assert torch.equal(head(states)[0], again(states)[0])
    soundfile.write(tmp_path / "a.wav", samples, RATE, subtype="FLOAT")
    assert main(["stream", str(folder), str(tmp_path / "a.wav"), "--fast"]) == 0
    session = stream.Session(encoder, head)
    session.feed(samples)
    session.finish()
    assert capsys.readouterr().out == session.text + "\n"
    checkpoint.save(encoder, folder)  # a head goes with the weights that it heard
    assert load_head(folder) is None


@pytest.mark.parametrize("damage", ["version", "field", "tensor", "file", "json"])
def test_a_damaged_head_says_so(folder, head, damage):
    save_head(head, folder)
    text = (folder / "head.json").read_text()
    if damage == "version":
        (folder / "head.json").write_text(text.replace('"format_version": 1', '"format_version": 2'))
    elif damage == "field":
        (folder / "head.json").write_text(text.replace('"blank"', '"blanc"'))
    elif damage == "tensor":
        (folder / "head.json").write_text(text.replace('"project_dim": 12', '"project_dim": 13'))
    elif damage == "json":
        (folder / "head.json").write_text(text[:-4])
    else:
        os.truncate(folder / "head.safetensors", 100)
    with pytest.raises(ValueError, match="head"):
        load_head(folder)


def test_a_microphone_needs_sounddevice(folder, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    assert main(["stream", str(folder), "mic"]) == 2
    assert "pip install 'headrace[mic]'" in capsys.readouterr().err


def test_a_pipe_without_read1_is_read_whole():
    chunks = list(stream.of_pipe(io.BytesIO(b"\x00\x40" * 700), RATE))
    assert sum(map(len, chunks)) == 700 and chunks[0][0] == 0.5

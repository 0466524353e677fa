# SPDX-License-Identifier: Apache-2.0
"""prepare_demo.py: two sound corpora from nothing, the same bytes each time, whatever is killed in between."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import prepare_demo
import prepare_iemocap
import prepare_librispeech
from headrace_manifests import demo_corpus, espeak
from headrace_manifests import demo_script as script
from headrace_manifests.command import run
from headrace_manifests.files import place_folder, read_manifest
from headrace_manifests.letters import ENGLISH
from manifests.corpora import quarantined

pytest.importorskip("espeakng_loader", reason="the demo corpus is spoken by espeakng-loader, which is not installed")
MINUTES = ["--train-minutes", "0.4", "--dev-minutes", "0.1", "--test-minutes", "0.1", "--emotion-minutes", "1"]


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and ".partial" not in path.parts
    }


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    dest = tmp_path_factory.mktemp("demo") / "corpus"
    assert run(prepare_demo.main, [str(dest), *MINUTES, "--workers", "2"]) == 0
    return dest


def test_asr_is_sound_with_disjoint_speakers(demo, tmp_path, capsys):
    splits = ["--train", "train", "--dev", "dev", "--test", "test"]
    assert run(prepare_librispeech.main, [str(demo / "asr"), "--dest", str(tmp_path), *splits]) == 0
    assert quarantined(tmp_path) == {} and "warning" not in capsys.readouterr().err
    rows = read_manifest(tmp_path / "train.tsv")[1]
    assert len({name.split("/")[1] for name, _ in rows}) == 12
    assert 24 < sum(num_samples for _, num_samples in rows) / 16_000 < 24 + 12 * 4
    words = (tmp_path / "train.wrd").read_text().splitlines()
    assert not any(ENGLISH.unknown_characters(line) for line in words)


def test_ser_has_two_speakers_a_session_and_all_classes(demo, tmp_path, capsys):
    assert run(prepare_iemocap.main, [str(demo / "ser"), "--dest", str(tmp_path)]) == 0
    assert quarantined(tmp_path) == {}
    assert "0 neu" not in capsys.readouterr().out
    dialogs = sorted(path.name for path in (demo / "ser").glob("Session*/sentences/wav/*"))
    assert dialogs == sorted(f"Ses0{session}{gender}_demo01" for session in range(1, 6) for gender in "FM")


def test_a_complete_corpus_is_left_alone(demo, capsys, monkeypatch):
    before = {path: path.stat().st_mtime_ns for path in demo.rglob("*")}
    monkeypatch.setattr(demo_corpus, "_start", lambda part: pytest.fail("spoke again"))
    assert run(prepare_demo.main, [str(demo), *MINUTES]) == 0
    assert "complete already" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in demo.rglob("*")} == before


def test_a_killed_run_goes_on_to_the_same_bytes_with_another_worker_count(demo, tmp_path, repository):
    command = [sys.executable, str(repository / "manifests/prepare_demo.py"), str(tmp_path / "demo"), *MINUTES]
    process = subprocess.Popen([*command, "--workers", "3"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while not list((tmp_path / "demo").glob("asr/train/1*")):
        assert time.monotonic() < deadline and process.poll() is None, "ended before it could be killed"
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    done = contents(tmp_path / "demo")
    assert 0 < len(done) < len(contents(demo))
    ours = subprocess.run([*command, "--workers", "1"], capture_output=True, text=True, check=False)
    assert ours.returncode == 0, ours.stderr
    process.communicate()
    assert contents(tmp_path / "demo") == contents(demo)
    assert all(contents(demo)[name] == data for name, data in done.items())


def test_other_parameters_and_foreign_folders_are_refused(demo, tmp_path, capsys):
    assert run(prepare_demo.main, [str(demo), *MINUTES, "--seed", "1"]) == 2
    assert "asked for" in capsys.readouterr().err
    (tmp_path / "thesis.txt").write_text("dear to someone")
    assert run(prepare_demo.main, [str(tmp_path), *MINUTES]) == 2
    assert "is not empty and holds no demo corpus" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("flag", ["--train-minutes", "--emotion-minutes", "--workers"])
def test_flags_out_of_range_are_refused(tmp_path, capsys, flag):
    assert run(prepare_demo.main, [str(tmp_path / "x"), flag, "0"]) == 2
    assert f"{flag}: expected" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_a_library_that_does_not_load_gives_one_line(tmp_path, capsys, monkeypatch):
    import espeakng_loader

    monkeypatch.setattr(espeakng_loader, "get_library_path", lambda: str(tmp_path / "libespeak-ng.so"))
    assert run(prepare_demo.main, [str(tmp_path / "demo"), *MINUTES]) == 2
    error = capsys.readouterr().err.splitlines()
    assert len(error) == 1 and error[0].startswith("error: cannot load libespeak-ng")


def test_a_part_takes_its_place_when_the_disk_holds_all_of_it(tmp_path, monkeypatch):
    for name in ("a/1.flac", "a/b/2.flac"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("speech")
    inodes, flushed = {path.stat().st_ino for path in (tmp_path / "a").rglob("*.flac")}, set()

    def fsync(descriptor):
        assert (tmp_path / "a").is_dir()
        flushed.add(os.fstat(descriptor).st_ino)

    monkeypatch.setattr(os, "fsync", fsync)
    place_folder(tmp_path / "a", tmp_path / "c/d")
    assert flushed == inodes and (tmp_path / "c/d/b/2.flac").is_file() and not (tmp_path / "a").exists()


def test_no_variant_is_heard_in_two_splits_or_by_two_actors():
    readers = [voice.variant for voices in script.READERS.values() for voice in voices]
    actors = [voice.variant for pair in script.ACTORS for voice in pair]
    assert len(set(readers)) == len(readers) == 20
    assert len(set(actors)) == len(actors) == 10
    assert len(script.READERS["train"]) == 12


def test_emotions_are_rendered_in_the_promised_directions():
    neutral, happy, sad, angry = script.EMOTIONS
    assert sad.rate < neutral.rate < angry.rate and sad.volume < neutral.volume < angry.volume
    assert sad.range < neutral.range < happy.range and sad.pitch < neutral.pitch < happy.pitch


def test_espeak_prosody_takes_effect():
    said = {}
    synthesiser = espeak.Espeak()
    for rate, volume in ((120, 60), (240, 60), (120, 120)):
        prosody = espeak.Prosody(rate=rate, volume=volume, pitch=50, range=50)
        said[rate, volume] = synthesiser.say("open the green window", "en-us+adam", prosody).astype(float)
    assert len(said[120, 60]) > 1.5 * len(said[240, 60])
    assert said[120, 120].std() > 1.5 * said[120, 60].std()
    with pytest.raises(ValueError, match="no voice 'en-us"):
        synthesiser.say("x", "en-us+nobody", espeak.Prosody(120, 60, 50, 50))

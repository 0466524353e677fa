# SPDX-License-Identifier: Apache-2.0
"""Features are kept where the disk has room for them; whether it has changes no stage's identity."""

import dataclasses
import shutil
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import soundfile

from headrace_experiments import experiment, room
from headrace_experiments.corpora import Splits
from headrace_experiments.plan import CHECKOUT, Plan, Speech
from headrace_experiments.room import Need
from headrace_stages import stamps
from headrace_stages.stage import RunFolder

Usage = namedtuple("Usage", "total used free")
DEMO = experiment.read(CHECKOUT / "experiments" / "demo.yaml")


def speech_in(root, is_synthesised=(False, False)):
    return Speech(root / "asr", root / "ser", Splits("train", "dev", "test"), is_synthesised)


def write(path, seconds):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = 0.1 * np.random.default_rng(0).standard_normal(round(16000 * seconds))
    soundfile.write(path, noise, 16000)


def with_free(monkeypatch, num_bytes):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(0, 0, num_bytes) if Path(path).exists() else None)


def test_hours_are_told_from_headers_and_bytes(tmp_path):
    for number in range(300):
        write(tmp_path / f"{'abc'[number % 3]}/{number}.{'flac' if number % 2 else 'wav'}", 0.2 + 0.01 * (number % 7))
    (tmp_path / "a/broken.flac").write_bytes(b"fLaC" * 100)
    true = sum(soundfile.info(path).duration for path in tmp_path.rglob("[0-9]*.*"))
    assert room.estimated_seconds([tmp_path / name for name in "abc"]) == pytest.approx(true, rel=0.05)
    assert room.estimated_seconds([tmp_path / "nowhere"]) == 0


def test_the_demos_minutes_are_those_it_synthesises(tmp_path):
    speech = speech_in(tmp_path, (True, True))
    assert room.seconds_of(DEMO, speech, "asr") == 60 * 12 and room.seconds_of(DEMO, speech, "emotion") == 60 * 6


def test_an_hour_takes_what_downstream_says(tmp_path):
    """headrace_downstream.feature_cache: layers x channels x 200 bytes a second."""
    by_stage = {need.stage: need for need in room.needs(DEMO, speech_in(tmp_path, (True, True)))}
    assert by_stage["asr-llsa"].num_bytes == 5 * 256 * 200 * 60 * 12
    assert by_stage["emotion-fbank"].num_bytes == 240 * 400 * 60 * 6
    assert by_stage["asr-llsa"].hours == 0.2


@pytest.mark.parametrize(
    ("free", "jobs", "left_out"),
    [(401, 1, ""), (399, 1, "b"), (401, 2, "b"), (801, 2, ""), (100, 2, "ab")],
)
def test_what_takes_more_than_half_of_the_free_disk_is_left_out(tmp_path, monkeypatch, free, jobs, left_out):
    with_free(monkeypatch, free)
    needs = [Need("a", 1, 100), Need("b", 1, 200)]
    found, _ = room.without_room(needs, RunFolder(tmp_path / "not" / "there"), jobs)
    assert "".join(need.stage for need in found) == left_out


def test_features_that_are_there_already_take_no_more_room(tmp_path, monkeypatch):
    with_free(monkeypatch, 150)
    kept = tmp_path / "stages/asr-llsa/features/llsa/1.npy"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(bytes(60))
    assert room.without_room([Need("asr-llsa", 1, 100)], RunFolder(tmp_path), 1) == ([], 210)


def test_one_line_says_what_is_left_out_and_why():
    line = room.told([Need("asr-full", 111, 1e11), Need("asr-llsa", 111, 1.02e11)], 5.7e10)
    assert line.startswith("no features are kept for asr-full, asr-llsa: 111 h of speech take up to 102 GB each, 57 GB")
    assert "\n" not in line


def test_a_stage_without_room_is_the_same_stage(tmp_path):
    """Else a disk that fills up would throw away the heads that are trained."""
    folder, speech = RunFolder(tmp_path / "run"), speech_in(tmp_path, (True, True))
    Plan(DEMO, folder, speech).write_configs()
    (kept,) = [stage for stage in Plan(DEMO, folder, speech).stages() if stage.name == "asr-llsa"]
    plan = Plan(DEMO, folder, speech, frozenset({"asr-llsa"}))
    (bare,) = [stage for stage in plan.stages() if stage.name == "asr-llsa"]
    assert {"--feature-cache", "features"} <= set(kept.command)
    assert [word for word in kept.command if word not in ("--feature-cache", "features")] == list(bare.command)
    assert stamps.key_of(folder, kept) == stamps.key_of(folder, bare)
    others = [stage for stage in plan.stages() if stage.name != "asr-llsa"]
    assert others == [stage for stage in Plan(DEMO, folder, speech).stages() if stage.name != "asr-llsa"]


def test_a_hundred_hours_under_a_small_encoder_are_told_from_a_sample(tmp_path, monkeypatch):
    """What `make demo ASR_ROOT=LibriSpeech` meets: 100 GB for each encoder."""
    monkeypatch.setattr(room, "estimated_seconds", lambda folders: 111 * 3600 * bool(list(folders)))
    with_free(monkeypatch, 150e9)
    one = dataclasses.replace(DEMO, tasks={"asr": DEMO.tasks["asr"]})
    left_out, free = room.without_room(room.needs(one, speech_in(tmp_path)), RunFolder(tmp_path), 2)
    assert [need.stage for need in left_out] == ["asr-fbank", "asr-untrained", "asr-llsa"]
    assert "take up to 102 GB each, 150 GB are free" in room.told(left_out, free)

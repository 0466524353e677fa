# SPDX-License-Identifier: Apache-2.0
"""The launcher around s3prl's real run_downstream, on corpora of a few tones: trains, goes on, evaluates, listens,
averages folds."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import run
from headrace_downstream import checkpoints, predictions, session
from headrace_downstream.corpora import HERE

pytestmark = [
    pytest.mark.s3prl,
    pytest.mark.filterwarnings("ignore"),
]  # s3prl and what it imports warn of many things

SHORT = "config.runner.total_steps=4,,config.runner.eval_step=2,,config.runner.save_step=2,,config.runner.log_step=2"


def arguments(task, corpus, expdir, *more, override=SHORT):
    root, manifests = corpus
    config = HERE / task / "config_tiny.yaml"
    line = (
        f"-u fbank -d {task} -c {config} -p {expdir} --data {root} --manifests {manifests} --device cpu -o {override}"
    )
    return [*line.split(), *map(str, more)]


def launched(capfd, *argv):
    """Run in this process; returns what was printed."""
    assert run.main([str(argument) for argument in argv]) == 0, capfd.readouterr().err
    return capfd.readouterr().out


def refused(capfd, *argv):
    """Run in this process what must be refused; returns the one line."""
    assert run.main([str(argument) for argument in argv]) == 2
    error = [line for line in capfd.readouterr().err.splitlines() if line.startswith("run.py: ")]
    assert len(error) == 1
    return error[0]


def score_of(folder):
    return json.loads((folder / "score.json").read_text())


def head_of(path):
    return checkpoints.load(path)["Downstream"]


def test_asr_is_trained_evaluated_resumed_and_listens(asr_corpus, tmp_path, capfd):
    expdir = tmp_path / "exp"
    said = launched(capfd, "-m", "train,evaluate", *arguments("asr", asr_corpus, expdir))
    assert "WER" in said
    score = score_of(expdir)
    assert score["task"] == "asr" and score["split"] == "test-clean"
    assert (score["num_utterances"], score["num_speakers"]) == (8, 2)
    assert score["run"]["upstream"] == "fbank" and score["run"]["layer_weights"] is None
    assert {p.reference for p in predictions.read(expdir / score["predictions"][0])} == {"HI", "LO"}

    # the same line again has nothing left to train
    assert "already trained" in launched(capfd, "-m", "train", *arguments("asr", asr_corpus, expdir))

    # s3prl's own -e: the checkpoint's settings, and paths that are kept in it
    longer = "config.runner.total_steps=6,,config.runner.save_step=2"
    launched(capfd, "-m", "train", "-e", expdir, "-o", longer, "--device", "cpu")
    assert checkpoints.load(expdir / "states-6.ckpt")["Step"] == 6

    launched(capfd, "-m", "evaluate", "-e", expdir / "states-6.ckpt", "-t", "dev-clean", "--device", "cpu")
    assert score_of(expdir)["split"] == "dev-clean" and score_of(expdir)["run"]["checkpoint"]["step"] == 6

    audio = asr_corpus[0] / "test" / "31" / "1" / "31-1-0000.flac"
    launched(capfd, "-m", "inference", "-e", expdir / "states-6.ckpt", "-t", audio, "--device", "cpu")
    assert (expdir / "inference.ark").read_text().startswith("31-1-0000")


def test_kept_features_train_the_head_that_computed_ones_train(asr_corpus, tmp_path, capfd):
    config = tmp_path / "config.yaml"
    specaug = {"num_freq_mask": 1, "freq_mask_width_range": [0, 9]}
    config.write_text(json.dumps({"base": f"{HERE}/asr/config_tiny.yaml", "specaug": specaug}))
    for name, more in {"plain": [], "cached": ["--feature-cache", tmp_path / "features"]}.items():
        launched(capfd, "-m", "train,evaluate", *arguments("asr", asr_corpus, tmp_path / name, "-c", config, *more))
    plain, cached = (head_of(tmp_path / name / "states-4.ckpt") for name in ("plain", "cached"))
    for key in plain:
        torch.testing.assert_close(cached[key], plain[key], rtol=1e-3, atol=1e-5)
    assert score_of(tmp_path / "cached")["metrics"] == score_of(tmp_path / "plain")["metrics"]
    assert len(list((tmp_path / "features").glob("fbank-*/*.npy"))) == 20


def test_five_folds_are_averaged_and_finished_ones_passed_over(emotion_corpus, tmp_path, capfd):
    expdir = tmp_path / "exp"
    argv = ["-m", "train,evaluate", "--folds", "all", *arguments("emotion", emotion_corpus, expdir)]
    launched(capfd, *argv)
    score = score_of(expdir)
    each = [score_of(expdir / f"fold{n}") for n in range(1, 6)]
    assert [fold["fold"] for fold in each] == [f"fold{n}" for n in range(1, 6)]
    mean = sum(fold["metrics"]["accuracy"]["value"] for fold in each) / 5
    assert score["mean_of_folds"]["accuracy"]["value"] == pytest.approx(mean)
    assert (score["num_utterances"], score["num_speakers"]) == (40, 10)
    assert sum(map(sum, score["confusion"]["counts"])) == 40
    assert {p.utterance[:5] for p in predictions.read(expdir / "fold3" / "predictions-test.tsv")} == {"Ses03"}

    # a fold that was cut off half-way is taken up again, the others are left alone
    (expdir / "fold2" / "states-4.ckpt").unlink()
    (expdir / "fold2" / "score.json").unlink()
    untouched = (expdir / "fold1" / "states-4.ckpt").stat().st_mtime_ns
    said = launched(capfd, *argv)
    assert said.count("already trained") == 4 and said.count("already evaluated") == 4
    assert (expdir / "fold1" / "states-4.ckpt").stat().st_mtime_ns == untouched
    assert (expdir / "fold2" / "score.json").is_file()


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        ("-m trane -d asr -u fbank -p X", "-m: expected train, evaluate, inference .*, came 'trane'"),
        ("-m train -p X", "-d and -u: needed to train"),
        ("-m train -d asr -u fbank", "-p: needed"),
        ("-m evaluate -p X", "holds no checkpoint to evaluate; train first"),
        ("-m evaluate -e X/states-1.ckpt", "-e .*states-1.ckpt: neither a checkpoint nor a folder"),
        (
            "-m train -d asr -u fbank -p X",
            "--data: missing; -d asr needs --data, a folder in LibriSpeech layout",
        ),
        ("-m train -d asr -u fbnk -p X", "-u fbnk: no such upstream; near it: .*fbank"),
        ("-m train -d asr -u fbank -p X -c X/none.yaml", "-c .*none.yaml: no such file; the ones here are"),
        ("-m train -d asr -u fbank -p X --folds all", "--folds: for -d emotion"),
        (
            "-m train -d emotion -u fbank -p X --folds 1,6",
            "--folds: expected all, or numbers from 1 to 5 .*, came '6'",
        ),
        ("-m train -d asr -u fbank -p X -o config.a==2", "-o config.a==2: expected KEY=VALUE"),
        (
            "-m train -d asr -u fbank -p X -f --feature-cache X",
            "--feature-cache: keeps the features of a frozen upstream",
        ),
    ],
)
def test_mistakes_get_one_line(argv, line, tmp_path, capfd):
    argv = [word.replace("X", str(tmp_path / "exp")) for word in argv.split()]
    assert re.search(line, refused(capfd, *argv))


def test_a_folder_with_another_run_in_it_is_not_written_over(asr_corpus, tmp_path, capfd):
    argv = arguments("asr", asr_corpus, tmp_path / "exp")
    launched(capfd, "-m", "train", *argv)
    assert "started with other_flags" in refused(capfd, "-m", "train", *argv, "--seed", "5")


def test_audio_cut_short_inside_is_named_when_it_is_met(asr_corpus, tmp_path, capfd):
    path = asr_corpus[0] / "train" / "11" / "1" / "11-1-0003.flac"
    path.write_bytes(path.read_bytes()[:-2000])
    line = refused(capfd, "-m", "train", *arguments("asr", asr_corpus, tmp_path / "exp"))
    assert "11-1-0003.flac: cannot be read as audio to its end" in line


def test_half_a_checkpoint_is_not_evaluated(asr_corpus, tmp_path, capfd):
    (tmp_path / "states-2.ckpt").write_bytes(b"PK half")
    assert "no whole checkpoint of s3prl" in refused(capfd, "-m", "evaluate", "-e", tmp_path / "states-2.ckpt")


def test_every_checkpoint_of_s3prl_is_written_beside_its_place(asr_corpus, tmp_path, capfd, monkeypatch):
    moved = []
    monkeypatch.setattr(
        session.os, "replace", lambda source, target: (moved.append(target), shutil.move(source, target))
    )
    launched(capfd, "-m", "train", *arguments("asr", asr_corpus, tmp_path / "exp"))
    saved = {path.name for path in (tmp_path / "exp").glob("*.ckpt")}
    assert {"states-2.ckpt", "states-4.ckpt"} <= saved <= {Path(target).name for target in moved}


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(tmp_path):
    torch.save({"Step": 1}, tmp_path / "states-1.ckpt")

    def fill(states, path):
        (tmp_path / "states-1.ckpt.part").write_bytes(b"half")
        raise RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0")

    with pytest.raises(OSError, match=r"states-1.ckpt: the checkpoint could not be written"):
        session.save_whole(fill)({"Step": 2}, str(tmp_path / "states-1.ckpt"))
    assert torch.load(tmp_path / "states-1.ckpt") == {"Step": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["states-1.ckpt"]


def test_killed_at_any_moment_it_goes_on_to_the_end(asr_corpus, tmp_path):
    """From the root folder, as its own process: SIGKILL while it trains, then the same line again."""
    expdir = tmp_path / "exp"
    every_step = "config.runner.total_steps=30,,config.runner.eval_step=5,,config.runner.save_step=1"
    command = [sys.executable, HERE / "run.py", "-m", "train,evaluate"]
    command += arguments("asr", asr_corpus, expdir, override=every_step)
    log = (tmp_path / "log").open("w")
    process = subprocess.Popen(command, cwd="/", stdout=log, stderr=log, start_new_session=True)
    while process.poll() is None and (newest_step(expdir) or 0) < 3:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, (tmp_path / "log").read_text()[-2000:]
    stopped = newest_step(expdir)
    assert 3 <= stopped < 30

    subprocess.run(command, cwd="/", check=True, stdout=log, stderr=log)
    text = (tmp_path / "log").read_text()
    assert int(re.search(r"Resume from .*states-(\d+)\.ckpt", text)[1]) == stopped
    assert newest_step(expdir) == 30
    assert score_of(expdir)["num_utterances"] == 8
    assert not list(expdir.glob("*.part"))


def newest_step(folder):
    path = checkpoints.newest(folder)
    return None if path is None else int(path.stem.split("-")[1])

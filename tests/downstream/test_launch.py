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
from headrace_downstream import checkpoints, files, predictions, session
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
    dev = json.loads((expdir / "score-dev-clean.json").read_text())
    assert dev["split"] == "dev-clean" and dev["run"]["checkpoint"]["step"] == 6
    assert score_of(expdir) == score == json.loads((expdir / "score-test-clean.json").read_text()), "the headline stays"

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


def test_a_speaker_whose_name_holds_other_marks_is_one_speaker(asr_corpus, tmp_path, capfd):
    root, manifests = asr_corpus
    for old, new in {"31": "spk_31", "32": "spk_32"}.items():
        chapter = root / "test" / old / "1"
        for path in sorted(chapter.iterdir()):
            path.rename(chapter / path.name.replace(old, new, 1))
        transcripts = chapter / f"{new}-1.trans.txt"
        transcripts.write_text(transcripts.read_text().replace(f"{old}-", f"{new}-"))
        chapter.parent.rename(root / "test" / new)
        bucket = manifests / "len_for_bucket" / "test.csv"
        bucket.write_text(bucket.read_text().replace(f"/{old}", f"/{new}"))
    launched(capfd, "-m", "train,evaluate", *arguments("asr", asr_corpus, tmp_path / "exp"))
    said = predictions.read(tmp_path / "exp" / "predictions-test-clean.tsv")
    assert {p.speaker for p in said} == {"spk_31", "spk_32"} and len(said) == 8


def test_an_audio_file_with_a_space_in_its_name_is_scored_by_its_label(emotion_corpus, tmp_path, capfd):
    root, manifests = emotion_corpus
    for path in sorted(root.rglob("Ses01F_impro01_F00*.wav")):
        path.rename(path.with_name(path.name.replace("impro01_", "impro01 take_")))
    for path in manifests.rglob("*.json"):
        path.write_text(path.read_text().replace("/Ses01F_impro01_F00", "/Ses01F_impro01 take_F00"))
    launched(capfd, "-m", "train,evaluate", *arguments("emotion", emotion_corpus, tmp_path / "exp"))
    said = {p.utterance: p for p in predictions.read(tmp_path / "exp" / "predictions-test.tsv")}
    assert len(said) == 8 and said["Ses01F_impro01 take_F003"].reference == "sad"
    assert {p.reference for p in said.values()} == {"neu", "hap", "ang", "sad"}


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
    (expdir / "fold2" / "score-test.json").unlink()
    untouched = (expdir / "fold1" / "states-4.ckpt").stat().st_mtime_ns
    said = launched(capfd, *argv)
    assert said.count("already trained") == 4 and said.count("already evaluated") == 4
    assert (expdir / "fold1" / "states-4.ckpt").stat().st_mtime_ns == untouched
    assert (expdir / "fold2" / "score-test.json").is_file()

    # another split of the same folds is evaluated, and the headline stays
    argv[argv.index("train,evaluate")] = "evaluate"
    assert "already evaluated" not in launched(capfd, *argv, "-t", "dev")
    assert json.loads((expdir / "score-dev.json").read_text())["num_utterances"] == 5 * 7
    assert score_of(expdir) == score


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
    monkeypatch.setattr(files.os, "replace", lambda source, target: (moved.append(target), shutil.move(source, target)))
    launched(capfd, "-m", "train", *arguments("asr", asr_corpus, tmp_path / "exp"))
    saved = {path.name for path in (tmp_path / "exp").glob("*.ckpt")}
    assert {"states-2.ckpt", "states-4.ckpt"} <= saved <= {Path(target).name for target in moved}


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(tmp_path):
    torch.save({"Step": 1}, tmp_path / "states-1.ckpt")

    def fill(states, file):
        file.write(b"half")
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
    (expdir / f".states-{stopped + 1}.ckpt.{process.pid}.part").write_bytes(b"what a kill in mid-checkpoint leaves")

    subprocess.run(command, cwd="/", check=True, stdout=log, stderr=log)
    text = (tmp_path / "log").read_text()
    assert int(re.search(r"Resume from .*states-(\d+)\.ckpt", text)[1]) == stopped
    assert newest_step(expdir) == 30
    assert score_of(expdir)["num_utterances"] == 8
    assert not list(expdir.glob("*.part"))


def newest_step(folder):
    path = checkpoints.newest(folder)
    return None if path is None else int(path.stem.split("-")[1])

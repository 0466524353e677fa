# SPDX-License-Identifier: Apache-2.0
import importlib
import json
import re
import subprocess
import sys

import pytest

from headrace_downstream import predictions, score
from headrace_downstream.predictions import Prediction


def asr(*pairs, speakers="ab"):
    return [Prediction(f"u{i}", speakers[i % len(speakers)], ref, hyp) for i, (ref, hyp) in enumerate(pairs)]


def value(result, key):
    return result["metrics"][key]["value"]


@pytest.mark.parametrize(
    ("pairs", "wer", "cer"),
    [
        ([("ONE TWO", "ONE TWO")], 0, 0),
        ([("ONE TWO", "ONE")], 50, 100 * 4 / 7),  # " TWO" is gone
        ([("ONE TWO", "ONE TOO TWO")], 50, 100 * 4 / 7),
        ([("ONE TWO", "ONE TOO")], 50, 100 * 1 / 7),
        ([("ONE TWO", "")], 100, 100),
        ([("A", "B C D")], 300, 500),
        (
            [("A B C", "A B C"), ("D", "E")],
            25,
            100 * 1 / 6,
        ),  # sums of errors over sums of words, not a mean of rates
    ],
    ids=[
        "right",
        "deletion",
        "insertion",
        "substitution",
        "nothing-heard",
        "more-than-all",
        "two-utterances",
    ],
)
def test_wer_and_cer_as_counted_by_hand(pairs, wer, cer):
    result = score.score("asr", asr(*pairs))
    assert value(result, "wer") == pytest.approx(wer)
    assert value(result, "cer") == pytest.approx(cer)


def emotion(rows):
    return [Prediction(f"u{i}", f"s{i % 3}", ref, hyp) for i, (ref, hyp) in enumerate(rows)]


def test_emotion_has_both_accuracies_and_the_confusion_matrix():
    result = score.score(
        "emotion", emotion([("neu", "neu"), ("neu", "sad"), ("neu", "neu"), ("sad", "sad"), ("sad", "ang")])
    )
    assert value(result, "accuracy") == pytest.approx(60.0)
    assert value(result, "unweighted_accuracy") == pytest.approx(100 * (2 / 3 + 1 / 2) / 2)
    assert result["confusion"] == {
        "labels": ["ang", "neu", "sad"],
        "counts": [[0, 0, 0], [0, 2, 1], [1, 0, 1]],
    }


def test_few_speakers_are_warned_of_and_many_are_not():
    few = score.score("asr", asr(*[("A", "A")] * 19, speakers=[str(i) for i in range(19)]))
    many = score.score("asr", asr(*[("A", "A")] * 20, speakers=[str(i) for i in range(20)]))
    assert few["num_speakers"] == 19 and "19 speakers" in few["warnings"][0]
    assert many["num_speakers"] == 20 and many["warnings"] == []


def test_the_difference_of_two_runs_is_paired():
    first = asr(("A B", "A B"), ("C D", "C X"), ("E F", "E F"))
    second = asr(("A B", "A X"), ("C D", "X X"), ("E F", "X F"))
    found = score.compare("asr", first, second)["difference"]["wer"]
    assert found["value"] == pytest.approx(100 / 6 - 400 / 6)
    assert found["holds_zero"] is False
    back = score.compare("asr", second, first)["difference"]["wer"]
    assert back["value"] == pytest.approx(-found["value"])
    assert back["interval_by_speaker"]["low"] == pytest.approx(-found["interval_by_speaker"]["high"])


def test_a_run_does_not_differ_from_itself():
    found = score.compare("emotion", *[emotion([("neu", "neu"), ("sad", "neu")])] * 2)["difference"]["accuracy"]
    assert found["value"] == 0 and found["holds_zero"]


def test_a_class_that_only_one_run_ever_says_is_no_trouble():
    found = score.compare("emotion", emotion([("neu", "neu")]), emotion([("neu", "hap")]))
    assert found["difference"]["accuracy"]["value"] == 100


@pytest.mark.parametrize(
    "other", [asr(("A", "A")), asr(("A", "A"), ("C", "B"))], ids=["an-utterance-less", "another-reference"]
)
def test_runs_on_other_utterances_are_not_paired(other):
    with pytest.raises(ValueError, match=r"cannot be paired: 1 utterances .* u1"):
        score.compare("asr", asr(("A", "A"), ("B", "B")), other)


def test_predictions_are_read_back_as_written(tmp_path):
    said = [Prediction("u2", "s", 'QUOTE " TAB\tEND', ""), Prediction("u1", "s", "", "A B")]
    predictions.write(tmp_path / "p.tsv", said)
    assert predictions.read(tmp_path / "p.tsv") == said[::-1]


def test_s3prls_files_are_read_with_empty_hypotheses(tmp_path):
    (tmp_path / "test-clean-noLM-hyp.ark").write_text("11-1-0000 \n12-1-0000 HI LO\n")
    (tmp_path / "test-clean-noLM-ref.ark").write_text("11-1-0000 HI\n12-1-0000 HI\n")
    speakers = {"11-1-0000": "11", "12-1-0000": "12"}
    assert predictions.read_asr(tmp_path, "test-clean", with_lm=False, speakers=speakers) == [
        Prediction("11-1-0000", "11", "HI", ""),
        Prediction("12-1-0000", "12", "HI", "HI LO"),
    ]


def test_a_space_in_an_audio_files_name_stays_in_the_utterance(tmp_path):
    (tmp_path / "test_fold1_predict.txt").write_text("Ses01F take 2_F000 sad\nSes01F take 3_F000 neu\n")
    (tmp_path / "test_fold1_truth.txt").write_text("Ses01F take 2_F000 neu\nSes01F take 3_F000 neu\n")
    speakers = dict.fromkeys(("Ses01F take 2_F000", "Ses01F take 3_F000"), "Ses01F")
    assert predictions.read_emotion(tmp_path, "test", "fold1", speakers) == [
        Prediction("Ses01F take 2_F000", "Ses01F", "neu", "sad"),
        Prediction("Ses01F take 3_F000", "Ses01F", "neu", "neu"),
    ]


def write_run(folder, task, said, split=None):
    folder.mkdir(exist_ok=True)
    table = f"predictions-{split or 'test'}.tsv"
    predictions.write(folder / table, said)
    about = {
        "split": split or "test",
        "predictions": [table],
        "run": {"upstream": folder.name, "upstream_ckpt": None},
    }
    score.write(folder / score.file_of(split), score.score(task, said) | about)
    return folder


def test_the_command_prints_a_run_and_a_difference(repository, tmp_path):
    good = write_run(tmp_path / "good", "asr", asr(("A B", "A B"), ("C D", "C D")))
    bad = write_run(tmp_path / "bad", "asr", asr(("A B", "A X"), ("C D", "C X")))
    script = [sys.executable, repository / "downstream" / "score.py"]
    shown = subprocess.run([*script, good, bad], check=False, capture_output=True, text=True, cwd="/")
    assert shown.returncode == 0, shown.stderr
    assert "difference, first - second" in shown.stdout and "-50.00 points" in shown.stdout


def test_the_command_compares_the_split_that_it_is_told(tmp_path, capsys):
    command = importlib.import_module("score")
    for name, hypothesis in {"good": "A B", "bad": "A X"}.items():
        write_run(tmp_path / name, "asr", asr(("C", "C")))
        write_run(tmp_path / name, "asr", asr(("A B", hypothesis)), split="test-other")
    runs = [str(tmp_path / name) for name in ("good", "bad")]
    assert command.main([*runs, "--split", "test-other"]) == 0
    assert "-50.00 points" in capsys.readouterr().out
    assert command.main(runs) == 0
    assert "no difference shown" in capsys.readouterr().out


def test_the_command_names_the_splits_that_were_evaluated(tmp_path, capsys):
    command = importlib.import_module("score")
    for split in ("dev-clean", "test-other"):
        write_run(tmp_path / "run", "asr", asr(("A", "A")), split)
    assert command.main([str(tmp_path / "run")]) == 2
    assert "score.json: no such file; splits evaluated there: dev-clean, test-other, see --split" in (
        capsys.readouterr().err
    )


def test_the_command_prints_json(tmp_path, capsys):
    command = importlib.import_module("score")
    good = write_run(tmp_path / "good", "asr", asr(("A B", "A B")))
    assert command.main([str(good), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["metrics"]["wer"]["value"] == 0


@pytest.mark.parametrize(
    ("other", "line"),
    [
        ("nowhere", "no such file; evaluate the run first"),
        ("emotion", "is asr and .* is emotion; give two runs of one task"),
    ],
)
def test_the_command_says_in_one_line_what_it_cannot_compare(tmp_path, capsys, other, line):
    command = importlib.import_module("score")
    good = write_run(tmp_path / "good", "asr", asr(("A", "A")))
    write_run(tmp_path / "emotion", "emotion", emotion([("neu", "neu")]))
    assert command.main([str(good), str(tmp_path / other)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and re.search(line, said)

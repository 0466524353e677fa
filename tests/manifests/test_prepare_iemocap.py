# SPDX-License-Identifier: Apache-2.0
"""prepare_iemocap.py: five folds that s3prl reads, and faults of labels named."""

import json
import shutil

import pytest

import prepare_iemocap
from headrace_manifests.command import run
from headrace_manifests.iemocap import speaker
from manifests.corpora import quarantined, truncate, write_audio, write_iemocap

SESSIONS = [f"Session{number}" for number in range(1, 6)]
ANY = ("--max-bad-percent", 100)


def command(root, dest, *arguments):
    return run(prepare_iemocap.main, [str(a) for a in (root, "--dest", dest, *arguments)])


@pytest.fixture
def iemocap(tmp_path):
    return write_iemocap(tmp_path / "iemocap")


def labels(iemocap):
    return iemocap / "Session1/dialog/EmoEvaluation/Ses01F_impro01.txt"


def fold(dest, session, part):
    return json.loads((dest / f"meta_data/{session}/{part}_meta_data.json").read_text())


def paths(metadata):
    return [row["path"] for row in metadata["meta_data"]]


def test_each_fold_tests_one_session_and_trains_on_the_others(iemocap, tmp_path):
    assert command(iemocap, tmp_path) == 0
    every = sorted(str(path.relative_to(iemocap)) for path in iemocap.rglob("*.wav"))
    for session in SESSIONS:
        train, test = fold(tmp_path, session, "train"), fold(tmp_path, session, "test")
        assert train["labels"] == test["labels"] == {"neu": 0, "hap": 1, "ang": 2, "sad": 3}
        assert {path.split("/")[0] for path in paths(test)} == {session}
        assert sorted(paths(train) + paths(test)) == every
        assert paths(train) == sorted(paths(train))
    first = fold(tmp_path, "Session1", "test")["meta_data"][0]
    path = "Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_F000.wav"
    assert first == {"path": path, "label": "neu", "speaker": "Ses01F"}


def test_two_runs_give_the_same_bytes(iemocap, tmp_path):
    for dest, workers in (("a", 1), ("b", 3)):
        command(iemocap, tmp_path / dest, "--workers", workers)
    for path in (tmp_path / "a/meta_data").rglob("*.json"):
        assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes()


@pytest.mark.parametrize(
    ("turn", "who"),
    [("Ses01F_impro01_M003", "Ses01M"), ("Ses05M_script01_1b_F012", "Ses05F"), ("Ses02F_script01_3_M0a", "Ses02M")],
)
def test_speaker_is_who_speaks_the_turn(turn, who):
    assert speaker(f"Session1/sentences/wav/x/{turn}.wav") == who


def test_excited_counts_as_happy_and_other_emotions_are_not_used(iemocap, tmp_path, capsys):
    text = labels(iemocap).read_text().replace("_F002\thap", "_F002\texc").replace("_M001\tneu", "_M001\tfru")
    labels(iemocap).write_text(text)
    assert command(iemocap, tmp_path) == 0
    rows = {row["path"][-8:-4]: row["label"] for row in fold(tmp_path, "Session1", "test")["meta_data"]}
    assert rows["F002"] == "hap" and "M001" not in rows
    assert quarantined(tmp_path) == {}
    assert "1 utterances of other emotions were not used" in capsys.readouterr().out


def test_every_fault_of_a_label_file_is_named(iemocap, tmp_path):
    text = labels(iemocap).read_text()
    text = text.replace("F000\tneu", "F000\tbored").replace("M001\tneu\t[2.5000, 2.5000, 2.5000]", "M001\tneu")
    text += "[9.0 - 9.1]\tSes01F_impro01_M099\tang\t[1, 1, 1]\n[9.0 - 9.1]\tSes01F_impro01_F002\tang\t[1, 1, 1]\n"
    labels(iemocap).write_text(text)
    (labels(iemocap).parent / "broken.txt").write_bytes(b"[0 - 1]\t\xff\n")
    (labels(iemocap).parent / "._Ses01F_impro01.txt").write_bytes(b"\x00\xff")
    wavs = iemocap / "Session1/sentences/wav/Ses01F_impro01"
    write_audio(wavs / "Ses01F_impro01_F098.wav")
    truncate(wavs / "Ses01F_impro01_M003.wav", 1)
    assert command(iemocap, tmp_path, *ANY) == 0
    rows = [line.split("\t")[1] for line in (tmp_path / "quarantine.tsv").read_text().splitlines()[1:]]
    text = "\n".join(rows)
    for words in (
        "unknown_label: line 3: Ses01F_impro01_F000 is 'bored', expected one of neu, hap, exc",
        "bad_line: line 6: 3 fields, expected [start - end]<TAB>utterance<TAB>label<TAB>[V, A, D]",
        "missing_audio: line 26: Ses01F_impro01_M099.wav is not below Session1/sentences/wav",
        "duplicate_id: line 27: Ses01F_impro01_F002 was labelled before",
        "bad_line: not UTF-8 at byte 8",
        "missing_label: no label line names it",
        "truncated: ",
    ):
        assert words in text
    assert len(rows) == 8  # M001, whose line is broken, and F098 both lack a label
    assert len(paths(fold(tmp_path, "Session1", "test"))) == 5


@pytest.mark.parametrize("name", ["Ses01F impro01_F000", "Ses01F_impro01_F000 "])
def test_white_space_in_a_name_is_named_since_s3prl_ends_names_there(iemocap, tmp_path, name):
    labels(iemocap).write_text(labels(iemocap).read_text().replace("Ses01F_impro01_F000\t", f"{name}\t"))
    wavs = iemocap / "Session1/sentences/wav/Ses01F_impro01"
    (wavs / "Ses01F_impro01_F000.wav").rename(wavs / f"{name}.wav")
    assert command(iemocap, tmp_path, *ANY) == 0
    (row,) = quarantined(tmp_path).values()
    assert row.startswith(f"bad_name: line 3: white space inside {name!r}")
    assert len(paths(fold(tmp_path, "Session1", "test"))) == 7


def test_too_many_faults_stop_with_code_2(iemocap, tmp_path, capsys):
    shutil.rmtree(iemocap / "Session2/sentences")
    assert command(iemocap, tmp_path / "out") == 2
    assert "8 of 40 entries are bad (20.0 %, allowed 5 %): 8 missing_audio" in capsys.readouterr().err
    assert not (tmp_path / "out/meta_data").exists()


def test_a_session_without_test_data_and_a_missing_session_are_refused(iemocap, tmp_path, capsys):
    shutil.rmtree(iemocap / "Session2/sentences")
    assert command(iemocap, tmp_path, *ANY) == 2
    assert "Session2: no utterance of the four classes is left" in capsys.readouterr().err
    shutil.rmtree(iemocap / "Session2")
    assert command(iemocap, tmp_path) == 2
    assert "found Session1, Session3, Session4, Session5" in capsys.readouterr().err


def check_s3prl(dest, root):
    compat = pytest.importorskip("headrace_downstream.compat", reason="s3prl needs downstream's stand-ins")
    compat.install()
    from s3prl.downstream.emotion.dataset import IEMOCAPDataset

    path = dest / "meta_data/Session3/test_meta_data.json"
    dataset = IEMOCAPDataset(str(root), str(path), pre_load=True)
    rows = fold(dest, "Session3", "test")["meta_data"]
    assert len(dataset) == len(rows) and dataset.class_num == 4
    for index, row in enumerate(rows):
        waveform, label, name = dataset[index]
        assert waveform.ndim == 1 and len(waveform) > 1600
        assert dataset.idx2emotion[label] == row["label"] and name in row["path"]


@pytest.mark.s3prl
def test_s3prl_reads_the_folds(iemocap, tmp_path):
    command(iemocap, tmp_path)
    check_s3prl(tmp_path, iemocap)


@pytest.mark.s3prl
def test_s3prl_reads_real_speech(emodb_root, tmp_path):
    assert command(emodb_root, tmp_path) == 0
    assert quarantined(tmp_path) == {}
    assert sum(len(paths(fold(tmp_path, session, "test"))) for session in SESSIONS) == 339
    check_s3prl(tmp_path, emodb_root)

# SPDX-License-Identifier: Apache-2.0
import json
import shutil

import numpy
import pytest
import soundfile

from headrace_downstream import corpora
from headrace_downstream.corpora import HERE
from headrace_manifests import iemocap

WAV = "Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_F000.wav"


def asr_datarc(corpus):
    root, manifests = corpus
    datarc = {"train": ["train"], "dev-clean": ["dev"], "test-clean": ["test"], "libri_root": "???"}
    corpora.fill_in("asr", datarc, root, manifests)
    return datarc


def emotion_datarc(corpus):
    datarc = {}
    corpora.fill_in("emotion", datarc, *corpus)
    return datarc


def check_asr(corpus, splits=("train", "dev-clean")):
    return corpora.check("asr", asr_datarc(corpus), splits, "fold1")


def check_emotion(corpus):
    return corpora.check("emotion", emotion_datarc(corpus), ["train", "test"], "fold1")


def test_a_sound_corpus_is_counted(asr_corpus, emotion_corpus):
    found = check_asr(asr_corpus)
    assert found.num_utterances == {"train": 8, "dev-clean": 4}
    assert found.seconds == pytest.approx(3 * (0.3 + 0.35 + 0.4 + 0.45))
    assert check_emotion(emotion_corpus).num_utterances == {"train": 32, "test": 8}


def test_the_manifests_own_dictionary_is_taken_before_superbs(asr_corpus):
    assert asr_datarc(asr_corpus)["dict_path"] == str(HERE / "asr" / "char.dict")
    own = asr_corpus[1] / "char.dict"
    shutil.copy(HERE / "asr" / "char.dict", own)
    assert asr_datarc(asr_corpus)["dict_path"] == str(own)


def test_a_checkpoints_paths_stay_where_the_command_line_names_none(asr_corpus):
    datarc = asr_datarc(asr_corpus)
    before = dict(datarc)
    corpora.fill_in("asr", datarc, None, None)
    assert datarc == before


@pytest.mark.parametrize(
    ("task", "data", "manifests", "line"),
    [
        ("asr", False, True, "--data: missing; -d asr needs --data"),
        ("asr", True, False, "--manifests: missing; -d asr needs"),
        ("emotion", False, True, "--data: missing; -d emotion needs"),
        ("emotion", True, False, "--manifests: missing"),
    ],
)
def test_a_missing_path_is_asked_for(tmp_path, task, data, manifests, line):
    (tmp_path / "len_for_bucket").mkdir()
    (tmp_path / "meta_data").mkdir()
    with pytest.raises(ValueError, match=line):
        corpora.fill_in(task, {}, tmp_path if data else None, tmp_path if manifests else None)


def test_manifests_that_point_nowhere_are_named(asr_corpus, emotion_corpus, tmp_path):
    with pytest.raises(ValueError, match=r"--data: .*gone is not there"):
        corpora.fill_in("asr", {}, tmp_path / "gone", asr_corpus[1])
    (asr_corpus[1] / "len_for_bucket" / "dev.csv").unlink()
    with pytest.raises(
        ValueError,
        match=r"-c: downstream_expert.datarc.dev-clean is \[dev\], and .*len_for_bucket holds no dev.csv, "
        r"only test.csv, train.csv; name one .* by -o \"config.downstream_expert.datarc.dev-clean=\['test'\]\", "
        r"or prepare dev",
    ):
        check_asr(asr_corpus)
    shutil.rmtree(asr_corpus[0] / "train" / "11")
    with pytest.raises(ValueError, match=r"11-1-0000.flac: is not there \(4 of 8 utterances are unfit\)"):
        check_asr(asr_corpus, ["train"])
    shutil.rmtree(emotion_corpus[1] / "meta_data" / "Session1")
    with pytest.raises(ValueError, match=r"Session1/train_meta_data.json: not there; run prepare_iemocap.py"):
        check_emotion(emotion_corpus)


def test_manifests_without_any_list_are_told_from_others(asr_corpus):
    for path in (asr_corpus[1] / "len_for_bucket").iterdir():
        path.unlink()
    with pytest.raises(ValueError, match=r"holds no train.csv, nor any other; run manifests/prepare_librispeech.py"):
        check_asr(asr_corpus)


@pytest.mark.parametrize(
    ("task", "path", "speaker"),
    [
        ("asr", "test/1005/10051/1005-10051-0000.flac", "1005"),
        ("asr", "test/spk_12/1/spk_12-1-0001.flac", "spk_12"),
        ("asr", "test/spk_13/1/spk_13-1-0001.flac", "spk_13"),
        ("asr", "test/ann-lee/1/ann-lee-1-0001.flac", "ann-lee"),
        ("emotion", "Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_M003.wav", "Ses01M"),
        ("emotion", "Session5/sentences/wav/Ses05F_script16_1/Ses05F_script16_1_F002.wav", "Ses05F"),
        ("emotion", "Session4/sentences/wav/Ses04M_script01_1b/Ses04M_script01_1b_M012.wav", "Ses04M"),
        ("emotion", "Session4/sentences/wav/x/ann-lee_1.wav", "ann-lee"),
    ],
)
def test_who_speaks_follows_the_layout_of_the_task(task, path, speaker):
    assert corpora.SPEAKER_OF[task](path) == speaker


def test_who_speaks_is_counted_as_the_manifests_count_it(emotion_corpus):
    actors = {f"Ses0{session}{sex}" for session in range(1, 6) for sex in "FM"}
    assert set(check_emotion(emotion_corpus).speakers.values()) == actors
    paths = [f"S/w/{name}.wav" for name in ("Ses01F_impro01_M003", "Ses04M_script01_1b_F012", "ann-lee_1", "alone")]
    assert [corpora.SPEAKER_OF["emotion"](path) for path in paths] == [iemocap.speaker(path) for path in paths]


def test_a_split_that_the_configuration_lacks_is_told_with_those_it_has(asr_corpus):
    with pytest.raises(ValueError, match=r"-t test-other: .* it has train, dev-clean, test-clean"):
        check_asr(asr_corpus, ["test-other"])


@pytest.mark.parametrize(
    ("samples", "rate", "line"),
    [
        (numpy.zeros((4800, 2)), 16000, "2 channels, expected one"),
        (numpy.zeros(4800), 8000, "8000 Hz, expected 16000"),
        (numpy.zeros(160), 16000, "160 samples, expected at least 640"),
        (numpy.zeros(0), 16000, "0 samples, expected at least 640"),
        (None, 0, "cannot be read as audio"),
    ],
    ids=["stereo", "8-kHz", "10-ms", "zero-length", "no-audio"],
)
def test_unfit_audio_is_named_before_anything_is_trained(emotion_corpus, samples, rate, line):
    path = emotion_corpus[0] / WAV
    if samples is None:
        path.write_bytes(b"RIFF")
    else:
        soundfile.write(path, samples, rate)
    with pytest.raises(ValueError, match=f"{path.name}: {line}.*1 of 40 utterances are unfit"):
        check_emotion(emotion_corpus)


@pytest.mark.parametrize(
    ("transcript", "line"),
    [
        ("11-1-0001 HÉ 2", r"11-1-0001.flac: transcript holds '2' 'É', not in .*char.dict \(1 of 8"),
        ("11-1-0001", "11-1-0001.flac: has no transcript"),
        ("", "11-1-0001.flac: has no transcript"),
    ],
    ids=["other-letters", "no-words", "no-line"],
)
def test_transcripts_that_s3prl_would_misread_are_named(asr_corpus, transcript, line):
    path = asr_corpus[0] / "train" / "11" / "1" / "11-1.trans.txt"
    path.write_text(path.read_text().replace("11-1-0001 HI", transcript))
    with pytest.raises(ValueError, match=line):
        check_asr(asr_corpus, ["train"])


def test_labels_outside_the_four_classes_are_named(emotion_corpus):
    path = emotion_corpus[1] / "meta_data" / "Session1" / "test_meta_data.json"
    path.write_text(path.read_text().replace('"label": "sad"', '"label": "fru"', 1))
    with pytest.raises(ValueError, match=r"has label 'fru', the labels are neu, hap, ang, sad"):
        check_emotion(emotion_corpus)


def test_a_label_that_s3prls_files_cannot_hold_is_refused(emotion_corpus):
    path = emotion_corpus[1] / "meta_data" / "Session1" / "test_meta_data.json"
    path.write_text(path.read_text().replace('"sad"', '"very sad"'))
    with pytest.raises(ValueError, match=r"label 'very sad' holds a space, which s3prl's result files cannot"):
        check_emotion(emotion_corpus)


def test_empty_lists_are_refused(asr_corpus, emotion_corpus):
    (asr_corpus[1] / "len_for_bucket" / "train.csv").write_text(",file_path,length,label\n")
    with pytest.raises(ValueError, match=r"the lists of split train are empty"):
        check_asr(asr_corpus, ["train"])
    path = emotion_corpus[1] / "meta_data" / "Session1" / "test_meta_data.json"
    path.write_text(json.dumps({"labels": {"neu": 0}, "meta_data": []}))
    with pytest.raises(ValueError, match=r"holds no utterances"):
        check_emotion(emotion_corpus)

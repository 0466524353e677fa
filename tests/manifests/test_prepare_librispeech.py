# SPDX-License-Identifier: Apache-2.0
"""prepare_librispeech.py: fairseq and s3prl read its files unchanged; faults of transcripts are named."""

import csv

import pytest

import prepare_librispeech
from headrace_manifests.command import run
from headrace_manifests.files import read_manifest
from headrace_manifests.letters import ENGLISH, letters
from manifests.corpora import quarantined, truncate, write_audio, write_libri

SPLITS = ("--train", "train", "--dev", "dev", "--test", "test")
ANY = ("--max-bad-percent", 100)


def command(root, dest, *arguments):
    return run(prepare_librispeech.main, [str(a) for a in (root, "--dest", dest, *SPLITS, *arguments)])


@pytest.fixture
def libri(tmp_path):
    return write_libri(tmp_path / "libri")


def transcript(libri):
    return libri / "train/1/7/1-7.trans.txt"


def replace_line(path, number, line):
    lines = path.read_text().splitlines()
    lines[number] = line
    path.write_text("\n".join(lines) + "\n")


def test_files_agree_line_by_line_and_two_runs_give_the_same_bytes(libri, tmp_path):
    for dest in ("a", "b"):
        assert command(libri, tmp_path / dest, "--workers", len(dest)) == 0
    root, rows = read_manifest(tmp_path / "a/train.tsv")
    words = (tmp_path / "a/train.wrd").read_text().splitlines()
    assert root == libri.resolve() and len(rows) == len(words) == 8
    assert words[:2] == ["DON'T STOP", "DON'T STOP NOW"]
    assert (tmp_path / "a/train.ltr").read_text().splitlines() == [letters(line) for line in words]
    files = [path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.suffix != ".jsonl"]
    for file in files:
        if (tmp_path / "a" / file).is_file():
            assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_letters_are_spelled_as_fairseq_does():
    assert letters("HELLO WORLD") == "H E L L O | W O R L D |"


def test_length_buckets_are_longest_first(libri, tmp_path):
    command(libri, tmp_path)
    rows = list(csv.DictReader((tmp_path / "len_for_bucket/train.csv").read_text().splitlines()))
    assert list(rows[0]) == ["", "file_path", "length", "label"]
    lengths = [int(row["length"]) for row in rows]
    assert lengths == sorted(lengths, reverse=True)
    assert {row["file_path"]: int(row["length"]) for row in rows} == dict(read_manifest(tmp_path / "train.tsv")[1])


@pytest.mark.parametrize(
    ("name", "order"), [("dict.ltr.txt", ENGLISH.fairseq_order), ("char.dict", ENGLISH.s3prl_order)]
)
def test_dictionaries_hold_28_symbols_in_a_fixed_order(libri, tmp_path, name, order):
    command(libri, tmp_path)
    rows = [line.split() for line in (tmp_path / name).read_text().splitlines()]
    assert "".join(symbol for symbol, _ in rows) == order
    assert len(order) == 28 and sorted(order) == sorted("|'ABCDEFGHIJKLMNOPQRSTUVWXYZ")
    assert dict(rows)["|"] == str(2 * (2 + 3 + 4 + 5)) and dict(rows)["Q"] == "0"


@pytest.mark.parametrize(
    ("line", "reason", "detail"),
    [
        ("1-7-0001 CAFÉ", "unknown_character", "'É' (U+00C9) in 'CAFÉ'"),
        ("1-7-0001 ROOM 12", "unknown_character", "'1' (U+0031), '2' (U+0032)"),
        ("1-7-0001 A|B", "unknown_character", "'|' (U+007C)"),
        ("1-7-0001", "empty_transcript", "no words for 1-7-0001"),
        ("1-7-0099 HELLO", "missing_transcript", "no line for 1-7-0001"),
    ],
    ids=["accent", "digits", "boundary", "empty", "missing"],
)
def test_a_bad_transcript_costs_its_utterance_and_is_named(libri, tmp_path, line, reason, detail):
    replace_line(transcript(libri), 1, line)
    assert command(libri, tmp_path, *ANY) == 0
    row = quarantined(tmp_path)["train/1/7/1-7-0001.flac"]
    assert row.startswith(f"{reason}: ") and detail in row
    assert len(read_manifest(tmp_path / "train.tsv")[1]) == 7
    assert len((tmp_path / "train.ltr").read_text().splitlines()) == 7


@pytest.mark.parametrize("folder", [".", "1", "1/7/x"])
def test_speech_outside_of_split_speaker_chapter_is_named(libri, tmp_path, folder):
    place = (libri / "train" / folder).resolve()
    write_audio(place / "9-9-0000.flac")
    (place / f"{place.parent.name}-{place.name}.trans.txt").write_text("9-9-0000 HELLO\n")
    assert command(libri, tmp_path, *ANY) == 0
    found = quarantined(tmp_path)
    assert list(found) == [str((place / "9-9-0000.flac").relative_to(libri))]
    assert next(iter(found.values())).startswith("bad_name: expected SPLIT/SPEAKER/CHAPTER/FILE")
    assert len(read_manifest(tmp_path / "train.tsv")[1]) == 8


@pytest.mark.parametrize("depth", [0, 1], ids=["train/FILE", "train/SPEAKER/FILE"])
def test_a_flat_corpus_is_refused_in_one_line(tmp_path, capsys, depth):
    for split in ("train", "dev", "test"):
        folder = tmp_path / "flat" / split / "/".join(["spk"] * depth)
        write_audio(folder / "1.flac")
        name = f"{split}.trans.txt" if depth == 0 else f"{split}-spk.trans.txt"
        (folder / name).write_text("1 HELLO\n")
    assert command(tmp_path / "flat", tmp_path / "out") == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: 3 of 3 entries are bad") and "expected SPLIT/SPEAKER/CHAPTER/FILE" in error


def test_a_transcript_file_at_the_wrong_depth_is_named(libri, tmp_path):
    (libri / "train/train.trans.txt").write_text("1-7-0000 HELLO\n")
    assert command(libri, tmp_path, *ANY) == 0
    assert list(quarantined(tmp_path)) == ["train/train.trans.txt"]


# ---- letters of another language ----


def german(libri, tmp_path):
    replace_line(transcript(libri), 1, "1-7-0001 schöne GRÜẞE")
    path = tmp_path / "letters.txt"
    path.write_text("\n".join("ENISRATDHULCGMOBWFKZPVJYXQÄÖÜẞ'") + "\n")
    return path


def test_letters_of_another_language_stand_in_both_dictionaries(libri, tmp_path):
    path = german(libri, tmp_path)
    assert command(libri, tmp_path, "--letters", path) == 0
    assert quarantined(tmp_path) == {}
    for name in ("dict.ltr.txt", "char.dict"):
        counts = dict(line.split() for line in (tmp_path / name).read_text().splitlines())
        assert "".join(counts) == "|ENISRATDHULCGMOBWFKZPVJYXQÄÖÜẞ'" and counts["Ö"] == counts["ẞ"] == "1"
    assert (tmp_path / "train.ltr").read_text().splitlines()[1] == "S C H Ö N E | G R Ü ẞ E |"


def test_the_error_says_what_another_language_can_do(libri, tmp_path):
    german(libri, tmp_path)
    assert command(libri, tmp_path, *ANY) == 0
    assert "SUPERB's English ones" in str(quarantined(tmp_path)) and "--letters FILE" in str(quarantined(tmp_path))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "is empty; expected one letter a line"),
        ("A\n\nB\n", "line 2: expected one letter, other than white space and the word boundary |, got ''"),
        ("A\nSCH\n", "line 2: expected one letter"),
        ("A\n|\n", "line 2: expected one letter"),
        ("A\nb\n", "line 2: s3prl raises transcripts to upper case, where 'b' is 'B'"),
        ("ß\n", "line 1: s3prl raises transcripts to upper case, where 'ß' is 'SS'"),
        ("A\nB\nA\n", "line 3: 'A' stands in line 1 too"),
        (b"\xff", "is not UTF-8 at byte 0"),
    ],
    ids=["empty", "blank line", "three letters", "boundary", "lower case", "no upper case", "twice", "bytes"],
)
def test_a_bad_file_of_letters_is_one_line(libri, tmp_path, capsys, content, words):
    path = tmp_path / "letters.txt"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert command(libri, tmp_path / "out", "--letters", path) == 2
    error = capsys.readouterr().err.splitlines()
    assert len(error) == 1 and error[0].startswith("error: --letters: ") and words in error[0]


def test_lower_case_is_raised_as_s3prl_does(libri, tmp_path):
    replace_line(transcript(libri), 0, "1-7-0000 don't   stop")
    assert command(libri, tmp_path) == 0
    assert (tmp_path / "train.wrd").read_text().startswith("DON'T STOP\n")


@pytest.mark.parametrize("fault", ["blank", "bytes", "twice"])
def test_a_transcript_file_that_stops_s3prl_costs_its_chapter(libri, tmp_path, fault):
    text = {"blank": b"\n", "bytes": b"1-7-0009 \xff\n", "twice": b"1-7-0000 AGAIN\n"}[fault]
    with transcript(libri).open("ab") as file:
        file.write(text)
    assert command(libri, tmp_path, *ANY) == 0
    found = quarantined(tmp_path)
    assert len(found) == 4 and all(row.startswith("bad_transcript_file: ") for row in found.values())
    assert len(read_manifest(tmp_path / "train.tsv")[1]) == 4


def test_missing_partners_and_bad_audio_are_named(libri, tmp_path):
    chapter = transcript(libri).parent
    (chapter / "1-7-0000.flac").unlink()
    truncate(chapter / "1-7-0001.flac", 1)
    (libri / "train/2/7/2-7.trans.txt").unlink()
    write_audio(libri / "dev/101/8/101-7-0000.flac")
    (libri / "dev/101/8/101-8.trans.txt").write_text("101-7-0000 TWICE\n")
    assert command(libri, tmp_path, *ANY) == 0
    found = {name: row.split(":")[0] for name, row in quarantined(tmp_path).items()}
    assert found == {
        "train/1/7/1-7.trans.txt": "missing_audio",
        "train/1/7/1-7-0001.flac": "truncated",
        **{f"train/2/7/2-7-000{index}.flac": "missing_transcript" for index in range(4)},
        "dev/101/8/101-7-0000.flac": "duplicate_id",
    }


def test_too_many_faults_stop_with_code_2(libri, tmp_path, capsys):
    replace_line(transcript(libri), 1, "1-7-0001 CAFÉ")
    replace_line(transcript(libri), 2, "1-7-0002 NAÏVE")
    assert command(libri, tmp_path / "out") == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "2 of 24 entries are bad (8.3 %, allowed 5 %): 2 unknown_character" in error
    assert not list((tmp_path / "out").glob("t*.tsv"))


def test_wrong_split_names_list_what_is_there(libri, tmp_path, capsys):
    assert run(prepare_librispeech.main, [str(libri), "--dest", str(tmp_path)]) == 2
    assert "no split 'train-clean-100'; folders there: dev, test, train" in capsys.readouterr().err
    assert command(libri, tmp_path, "--dev", "train") == 2


def test_shared_speakers_are_warned_of(libri, tmp_path, capsys):
    (libri / "dev/101").rename(libri / "train/101")
    (libri / "dev/102").rename(libri / "train/102")
    write_audio(libri / "dev/101/9/101-9-0000.flac")
    (libri / "dev/101/9/101-9.trans.txt").write_text("101-9-0000 HELLO\n")
    assert command(libri, tmp_path) == 0
    assert "warning: dev and train share 1 speakers: 101" in capsys.readouterr().err


def s3prl_asr(dest, root, split, batch_size):
    compat = pytest.importorskip("headrace_downstream.compat", reason="s3prl needs downstream's stand-ins")
    compat.install()
    from s3prl.downstream.asr.dataset import SequenceDataset
    from s3prl.downstream.asr.dictionary import Dictionary

    dictionary = Dictionary.load(str(dest / "char.dict"))
    arguments = {"libri_root": str(root), "bucket_file": str(dest / "len_for_bucket"), split: [split]}
    return dictionary, SequenceDataset(split, batch_size, dictionary, **arguments)


def check_s3prl(dest, root, split):
    dictionary, dataset = s3prl_asr(dest, root, split, batch_size=1)
    assert len(dictionary) == 32 and dictionary.bos() == 0
    rows = dict(read_manifest(dest / f"{split}.tsv")[1])
    words = dict(zip(rows, (dest / f"{split}.ltr").read_text().splitlines(), strict=True))
    assert sorted(path for batch in dataset.X for path in batch) == sorted(rows)
    for batch, index in zip(dataset.X[:5], range(5), strict=False):
        waveforms, labels, _ = dataset[index]
        assert len(waveforms[0]) == rows[batch[0]]
        assert dictionary.unk() not in labels[0]
        assert dictionary.string(labels[0]) == words[batch[0]]


@pytest.mark.s3prl
def test_s3prl_reads_the_files_also_beside_quarantined_ones(libri, tmp_path):
    replace_line(transcript(libri), 1, "1-7-0001 CAFÉ")
    assert command(libri, tmp_path) == 0
    check_s3prl(tmp_path, libri, "train")


@pytest.mark.s3prl
def test_s3prl_reads_letters_of_another_language(libri, tmp_path):
    assert command(libri, tmp_path, "--letters", german(libri, tmp_path)) == 0
    dictionary, dataset = s3prl_asr(tmp_path, libri, "train", batch_size=1)
    assert len(dictionary) == 4 + 32
    said = {name: dictionary.string(labels[0]) for _, labels, (name,) in map(dataset.__getitem__, range(8))}
    assert said["1-7-0001"] == "S C H Ö N E | G R Ü ẞ E |" and not any("<" in text for text in said.values())


@pytest.mark.s3prl
def test_s3prl_reads_real_speech(an4_root, tmp_path):
    assert command(an4_root, tmp_path) == 0
    assert quarantined(tmp_path) == {}
    assert [len(read_manifest(tmp_path / f"{split}.tsv")[1]) for split in ("train", "dev", "test")] == [715, 129, 104]
    check_s3prl(tmp_path, an4_root, "test")


@pytest.mark.fairseq
def test_fairseq_loads_the_letter_dictionary(libri, tmp_path):
    command(libri, tmp_path)
    fairseq = pytest.importorskip("fairseq.data")
    dictionary = fairseq.Dictionary.load(str(tmp_path / "dict.ltr.txt"))
    assert len(dictionary) == 32
    encoded = dictionary.encode_line((tmp_path / "train.ltr").read_text().splitlines()[0], append_eos=False)
    assert dictionary.unk() not in encoded.tolist()

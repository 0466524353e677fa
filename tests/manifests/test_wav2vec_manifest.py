# SPDX-License-Identifier: Apache-2.0
"""wav2vec_manifest.py: fairseq reads it, two runs agree, a kill loses nothing, bad files are named."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import soundfile

import prepare_iemocap
import prepare_librispeech
import wav2vec_manifest
from headrace_manifests import scan
from headrace_manifests.audio import measure
from headrace_manifests.command import run
from headrace_manifests.files import find_files, read_manifest
from manifests.corpora import quarantined, write_audio, write_bad


@pytest.fixture
def corpus(tmp_path):
    for index in range(40):
        write_audio(tmp_path / f"corpus/{index % 7}/{index}.flac", 0.2 + 0.01 * index, seed=index)
    return tmp_path / "corpus"


def command(*arguments):
    return run(wav2vec_manifest.main, [str(argument) for argument in arguments])


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.tsv")}


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_output_is_the_same_bytes_for_any_worker_count_and_from_the_cache(corpus, tmp_path, workers):
    command(corpus, "--dest", tmp_path / "first", "--valid-percent", 0.1)
    again = ("--dest", tmp_path / "second", "--valid-percent", 0.1, "--workers", workers)
    command(corpus, *again)
    assert contents(tmp_path / "first") == contents(tmp_path / "second")
    command(corpus, *again)
    assert contents(tmp_path / "first") == contents(tmp_path / "second")


def test_rows_are_sorted_and_split_by_seed_not_by_order(corpus, tmp_path, monkeypatch):
    command(corpus, "--dest", tmp_path / "a", "--valid-percent", 0.1)
    root, train = read_manifest(tmp_path / "a/train.tsv")
    _, valid = read_manifest(tmp_path / "a/valid.tsv")
    assert root == corpus.resolve()
    assert (len(train), len(valid)) == (36, 4)
    assert train == sorted(train) and valid == sorted(valid)
    assert all(soundfile.info(root / name).frames == num_samples for name, num_samples in train + valid)
    walk = os.walk
    monkeypatch.setattr(os, "walk", lambda *a, **k: ((f, d, n[::-1]) for f, d, n in walk(*a, **k)))
    command(corpus, "--dest", tmp_path / "b", "--valid-percent", 0.1)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    command(corpus, "--dest", tmp_path / "c", "--valid-percent", 0.1, "--seed", 43)
    assert read_manifest(tmp_path / "c/valid.tsv")[1] != valid


def test_one_file_more_leaves_the_others_where_they_were():
    names = [f"{index}.flac" for index in range(100)]
    valid = set(wav2vec_manifest.split(names, 0.1, 42)[1])
    assert len(valid - set(wav2vec_manifest.split([*names, "new.flac"], 0.1, 42)[1])) <= 1


@pytest.mark.parametrize(
    ("valid_percent", "num_valid"), [(0, None), (0.001, 1), (0.5, 20), (0.98, 39)], ids=["none", "one", "half", "most"]
)
def test_valid_percent_holds_out_a_share(corpus, tmp_path, valid_percent, num_valid):
    assert command(corpus, "--dest", tmp_path, "--valid-percent", valid_percent) == 0
    assert len(read_manifest(tmp_path / "train.tsv")[1]) == 40 - (num_valid or 0)
    assert (tmp_path / "valid.tsv").exists() == (num_valid is not None)


@pytest.mark.parametrize(("number", "valid_percent"), [(1, 0.01), (1, 0.99), (2, 0.9), (40, 0.999)])
def test_a_share_that_leaves_nothing_to_train_on_is_refused(tmp_path, capsys, number, valid_percent):
    for index in range(number):
        write_audio(tmp_path / f"few/{index}.flac")
    assert command(tmp_path / "few", "--dest", tmp_path / "out", "--valid-percent", valid_percent) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert f"--valid-percent: {valid_percent:g} of {number} files holds out {number}" in error
    assert not list((tmp_path / "out").glob("[tv]*.tsv"))


@pytest.mark.parametrize("script", [wav2vec_manifest, prepare_librispeech, prepare_iemocap], ids=lambda s: s.__name__)
def test_flags_are_not_abbreviated(corpus, tmp_path, script):
    with pytest.raises(SystemExit):
        script.parser().parse_args([str(corpus), "--max-bad", "50"])


def test_path_fragments_and_extensions_choose_files(corpus, tmp_path):
    write_audio(corpus / "3/x.wav")
    write_audio(corpus / ".hidden/y.flac")
    write_audio(corpus / "3/._z.flac")
    command(corpus, "--dest", tmp_path, "--ext", "flac,.wav", "--valid-percent", 0)
    assert len(read_manifest(tmp_path / "train.tsv")[1]) == 41
    fragments = ("--path-must-contain", "corpus/3/", "--path-must-contain", "corpus/4/")
    command(corpus, "--dest", tmp_path, "--ext", "wav,flac", "--valid-percent", 0, *fragments)
    folders = {name.split("/")[0] for name, _ in read_manifest(tmp_path / "train.tsv")[1]}
    assert folders == {"3", "4"}


def test_files_are_found_in_sorted_order(corpus, monkeypatch):
    walk = os.walk
    monkeypatch.setattr(os, "walk", lambda *a, **k: ((f, d, n[::-1]) for f, d, n in walk(*a, **k)))
    found = find_files(corpus, ["flac"])
    assert found == sorted(found) and len(found) == 40


def test_folder_links_are_followed_and_loops_end(corpus, tmp_path):
    (corpus / "loop").symlink_to(corpus)
    elsewhere = write_audio(tmp_path / "elsewhere/1.flac").parent
    (corpus / "linked").symlink_to(elsewhere)
    command(corpus, "--dest", tmp_path, "--valid-percent", 0)
    names = [name for name, _ in read_manifest(tmp_path / "train.tsv")[1]]
    assert len(names) == 41 and "linked/1.flac" in names


def test_every_kind_of_bad_file_is_named_and_left_out(tmp_path):
    reasons = write_bad(tmp_path / "bad")
    write_audio(tmp_path / "bad/good.flac")
    arguments = ("--ext", "flac,wav", "--max-seconds", 3, "--max-bad-percent", 90, "--valid-percent", 0)
    assert command(tmp_path / "bad", "--dest", tmp_path / "out", *arguments) == 0
    found = quarantined(tmp_path / "out")
    assert {name: reason.split(":")[0] for name, reason in found.items()} == reasons
    assert [name for name, _ in read_manifest(tmp_path / "out/train.tsv")[1]] == ["good.flac"]


def test_too_much_bad_audio_stops_with_code_2_and_no_manifest(corpus, tmp_path, capsys):
    write_bad(corpus)
    assert command(corpus, "--dest", tmp_path / "out", "--ext", "flac,wav") == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "allowed 5 %" in error and "--max-bad-percent" in error and str(tmp_path / "out/quarantine.tsv") in error
    assert not (tmp_path / "out/train.tsv").exists()
    assert quarantined(tmp_path / "out")


def test_own_duration_limits_do_not_make_a_corpus_bad(corpus, tmp_path):
    limits = ("--min-seconds", 0.3, "--max-seconds", 0.4, "--valid-percent", 0)
    assert command(corpus, "--dest", tmp_path, *limits) == 0
    seconds = [num_samples / 16_000 for _, num_samples in read_manifest(tmp_path / "train.tsv")[1]]
    assert len(seconds) == 11 and 0.3 <= min(seconds) <= max(seconds) <= 0.4
    assert len(quarantined(tmp_path)) == 29


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--valid-percent", "7"], "--valid-percent: expected a share from 0 to less than 1, got 7"),
        (["--valid-percent", "1"], "--valid-percent: expected a share from 0 to less than 1, got 1"),
        (["--workers", "0"], "--workers: expected 1 or more, got 0"),
        (["--min-seconds", "-1"], "--min-seconds: expected 0 or more, got -1"),
        (["--max-seconds", "0.05"], "--max-seconds: expected more than --min-seconds"),
        (["--max-bad-percent", "101"], "--max-bad-percent: expected 0 to 100, got 101"),
        (["--ext", " , "], "--ext: expected an extension"),
        (["--ext", "mp3"], "no *.mp3 files"),
        (["--path-must-contain", "nowhere"], "'nowhere'"),
        (["--min-seconds", "9"], "no file is left: 40 too_short"),
    ],
)
def test_mistakes_give_one_line_and_code_2(corpus, tmp_path, capsys, arguments, words):
    assert command(corpus, "--dest", tmp_path / "out", *arguments) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ") and words in error


def test_a_root_that_is_not_there_gives_one_line(tmp_path, capsys):
    assert command(tmp_path / "nowhere") == 2
    assert "nowhere is no folder" in capsys.readouterr().err


def test_a_full_disk_leaves_the_old_manifest_and_gives_one_line(corpus, tmp_path, capsys, monkeypatch):
    command(corpus, "--dest", tmp_path / "out")
    before = contents(tmp_path / "out")

    def full(_descriptor):
        raise OSError(28, "No space left on device")

    write_audio(corpus / "more.flac")
    monkeypatch.setattr(os, "fsync", full)
    assert command(corpus, "--dest", tmp_path / "out") == 2
    assert "No space left on device" in capsys.readouterr().err.splitlines()[-1]
    assert contents(tmp_path / "out") == before
    assert not list((tmp_path / "out").glob("*.partial")) and not list((tmp_path / "out").glob(".*partial"))


def counting(monkeypatch):
    measured, measure = [], scan.measure
    monkeypatch.setattr(scan, "measure", lambda path: measured.append(path.name) or measure(path))
    return measured


def test_a_killed_scan_goes_on_from_what_it_had(tmp_path, repository, monkeypatch):
    for index in range(60):
        write_audio(tmp_path / f"corpus/{index:02d}.flac", 15, seed=index)
    script = repository / "manifests/wav2vec_manifest.py"
    flags = ["--dest", str(tmp_path / "out"), "--workers", "1"]
    process = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path / "corpus"), *flags], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    cache = tmp_path / "out/scan_cache.jsonl"
    deadline = time.monotonic() + 60
    while not (cache.exists() and cache.read_bytes().count(b"\n") > 6):
        assert time.monotonic() < deadline and process.poll() is None, "the scan ended before it could be killed"
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (tmp_path / "out/train.tsv").exists()
    with cache.open("ab") as file:
        file.write(b'["59.flac", [1, 2')
    known = cache.read_bytes().count(b"\n") - 1
    measured = counting(monkeypatch)
    assert command(tmp_path / "corpus", *flags) == 0
    assert len(measured) == 60 - known and known >= 5
    measured.clear()
    command(tmp_path / "corpus", *flags)
    assert measured == []
    command(tmp_path / "corpus", "--dest", tmp_path / "fresh")
    assert contents(tmp_path / "out") == contents(tmp_path / "fresh")


def test_resume_measures_changed_files_again_and_no_resume_all(corpus, tmp_path, monkeypatch):
    command(corpus, "--dest", tmp_path / "out")
    write_audio(corpus / "3/3.flac", 0.7)
    measured = counting(monkeypatch)
    command(corpus, "--dest", tmp_path / "out", "--valid-percent", 0)
    assert measured == ["3.flac"]
    assert dict(read_manifest(tmp_path / "out/train.tsv")[1])["3/3.flac"] == 11_200
    command(corpus, "--dest", tmp_path / "out", "--no-resume")
    assert len(measured) == 41


def test_a_cache_of_another_root_is_not_trusted(corpus, tmp_path, monkeypatch):
    command(corpus, "--dest", tmp_path / "out")
    write_audio(tmp_path / "other/3/3.flac", 0.7)
    command(tmp_path / "other", "--dest", tmp_path / "out")
    header = (tmp_path / "out/scan_cache.jsonl").read_text().splitlines()[0]
    assert json.loads(header)["root"] == str((tmp_path / "other").resolve())


def fairseq_dataset(manifest, monkeypatch):
    raw_audio = pytest.importorskip("fairseq.data.audio.raw_audio_dataset")
    return raw_audio.FileAudioDataset(str(manifest), 16_000, max_sample_size=250_000, min_sample_size=1)


@pytest.mark.fairseq
def test_fairseq_reads_the_manifest(corpus, tmp_path, monkeypatch):
    command(corpus, "--dest", tmp_path)
    dataset = fairseq_dataset(tmp_path / "train.tsv", monkeypatch)
    root, rows = read_manifest(tmp_path / "train.tsv")
    assert dataset.sizes.tolist() == [num_samples for _, num_samples in rows]
    assert [len(dataset[index]["source"]) for index in range(3)] == dataset.sizes[:3].tolist()
    assert dataset.root_dir == str(root)


@pytest.mark.fairseq
def test_fairseq_reads_a_manifest_over_both_real_corpora(an4_root, emodb_root, tmp_path, monkeypatch):
    fragments = ("--path-must-contain", "an4/dev", "--path-must-contain", "emodb/Session1")
    assert command(an4_root.parent, "--dest", tmp_path, "--ext", "flac,wav", *fragments) == 0
    assert quarantined(tmp_path) == {}
    dataset = fairseq_dataset(tmp_path / "train.tsv", monkeypatch)
    assert len(dataset) == 129 + 81 - 2
    assert len(dataset[0]["source"]) == dataset.sizes[0]


@pytest.mark.parametrize(("kind", "cut"), [("mp3", 0.5), ("flac", 0.5), ("flac", 0.9), ("wav", 0.5)])
def test_a_cut_file_is_known_by_decoding_whatever_its_header_says(tmp_path, kind, cut):
    path = write_audio(tmp_path / f"cut.{kind}", 2.0)
    whole = path.read_bytes()
    assert (measure(path).fault, measure(path).num_samples) == (None, 32_000)
    path.write_bytes(whole[: int(cut * len(whole))])
    assert measure(path).fault == "truncated"

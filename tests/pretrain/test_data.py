# SPDX-License-Identifier: Apache-2.0
"""The wrapped dataset: batches say which utterances they hold, bad audio is left out, nothing is dropped silently."""

import logging
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch

pytest.importorskip("fairseq", reason="fairseq is not installed")
from fairseq.data import FileAudioDataset, SubsampleDataset

from headrace_fairseq.data import KnownUtterances, watch_datasets, watch_trainer
from headrace_fairseq.left_out import LeftOut

pytestmark = pytest.mark.filterwarnings("ignore:Using a non-tuple sequence")  # in fairseq's crop_to_max_size

MIN_SAMPLES = 4000


def load(folder, split="train", seed=1, **options):
    dataset = FileAudioDataset(str(folder / f"{split}.tsv"), sample_rate=16000, max_sample_size=12000, **options)
    return KnownUtterances(dataset, seed, MIN_SAMPLES)


def collate(dataset, indices):
    return dataset.collater([dataset[i] for i in indices])


def same(a, b):
    return torch.equal(a["net_input"]["source"], b["net_input"]["source"])


def test_batches_say_which_utterances_and_epoch(minute_corpus):
    dataset = load(minute_corpus)
    dataset.set_epoch(3)
    net_input = collate(dataset, [4, 2])["net_input"]
    assert net_input["utterances"].tolist() == [4, 2]
    assert net_input["epoch"] == 3


@pytest.mark.parametrize("keeps_samples", [False, True])
def test_samples_can_be_kept_from_the_rounding_of_narrow_training(minute_corpus, keeps_samples):
    dataset = KnownUtterances(load(minute_corpus).dataset, 1, MIN_SAMPLES, keeps_samples)
    source = collate(dataset, [4, 2])["net_input"]["source"]
    assert source.dtype == (torch.float64 if keeps_samples else torch.float32)  # fairseq rounds fp32 alone
    assert torch.equal(source.float(), collate(load(minute_corpus), [4, 2])["net_input"]["source"])


def test_crops_depend_on_seed_epoch_and_utterances_only(minute_corpus):
    first, again, other = load(minute_corpus), load(minute_corpus), load(minute_corpus, seed=2)
    np.random.seed(5)  # noqa: NPY002
    assert same(collate(first, [23, 2]), collate(again, [23, 2]))
    assert not same(collate(first, [23, 2]), collate(other, [23, 2]))
    again.set_epoch(2)
    assert not same(collate(first, [23, 2]), collate(again, [23, 2]))


def test_order_depends_on_seed_and_epoch_only(minute_corpus):
    first, again = load(minute_corpus), load(minute_corpus)
    order = first.ordered_indices()
    assert np.array_equal(order, again.ordered_indices())
    again.set_epoch(2)
    again.set_epoch(1)
    assert np.array_equal(order, again.ordered_indices())


@pytest.mark.parametrize("context", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
@pytest.mark.filterwarnings("ignore:.*pin_memory.*", "ignore:.*multi-threaded.*:DeprecationWarning")
def test_workers_that_live_on_hear_of_a_new_epoch(minute_corpus, context):
    dataset = load(minute_corpus)
    loader = torch.utils.data.DataLoader(
        dataset,
        batch_sampler=[[0, 1], [2, 3]],
        collate_fn=dataset.collater,
        num_workers=1,
        persistent_workers=True,
        multiprocessing_context=context,
    )
    for epoch in (1, 2):
        dataset.set_epoch(epoch)
        assert [batch["net_input"]["epoch"] for batch in loader] == [epoch, epoch]
    local = load(minute_corpus)
    local.set_epoch(2)
    assert same(next(iter(loader)), collate(local, [0, 1]))


def spoil(path, how):
    samples, rate = soundfile.read(path, dtype="float32")
    if how == "nan":
        samples[100] = np.nan
        soundfile.write(path.with_suffix(".wav"), samples, rate, subtype="FLOAT")
        path.with_suffix(".wav").rename(path)
    elif how == "8 kHz":
        soundfile.write(path, samples, 8000)
    elif how == "truncated":
        path.write_bytes(path.read_bytes()[:200])
    elif how == "zero bytes":
        path.write_bytes(b"")
    elif how == "10 ms":
        soundfile.write(path, samples[:160], rate)
    elif how == "gone":
        path.unlink()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("how", ["nan", "8 kHz", "truncated", "zero bytes", "10 ms", "gone"])
def test_bad_audio_is_left_out_with_a_warning(corpus_of, tmp_path, caplog, monkeypatch, how):
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # fairseq waits three times for a file to become readable
    folder = corpus_of(tmp_path / "corpus", {"train": [0.5] * 4})
    spoil(folder / "audio" / "train2.flac", how)
    dataset = load(folder)
    batch = collate(dataset, [1, 2, 3])
    assert batch["net_input"]["utterances"].tolist() == [1, 3]
    assert batch["net_input"]["source"].isfinite().all()
    assert any(f"{folder}/audio/train2.flac is left out" in message for message in caplog.messages)


def test_a_batch_of_bad_audio_is_fairseqs_empty_batch(corpus_of, tmp_path):
    folder = corpus_of(tmp_path / "corpus", {"train": [0.5] * 2})
    spoil(folder / "audio" / "train1.flac", "10 ms")
    assert collate(load(folder), [1]) == {}


def test_the_name_is_the_files_whatever_was_too_short_or_not_sampled(corpus_of, tmp_path, caplog):
    folder = corpus_of(tmp_path / "corpus", {"train": [0.1, 0.5, 0.5]})
    spoil(folder / "audio" / "train2.flac", "nan")
    dataset = load(folder, min_sample_size=MIN_SAMPLES)
    dataset[1]
    assert "/audio/train2.flac is left out: samples that are NaN or infinite" in caplog.messages[0]
    sampled = SubsampleDataset(dataset.dataset, 0.5)
    sampled.indices = np.array([1])
    KnownUtterances(sampled, 1, MIN_SAMPLES)[0]
    assert "/audio/train2.flac is left out" in caplog.messages[1]


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.filterwarnings("ignore:.*pin_memory.*", "ignore:.*multi-threaded.*:DeprecationWarning")
def test_too_many_bad_files_are_told_by_the_process_that_trains(corpus_of, tmp_path, num_workers):
    folder = corpus_of(tmp_path / "corpus", {"train": [0.5] * 4})
    for i in (0, 1):  # one for each worker
        spoil(folder / "audio" / f"train{i}.flac", "10 ms")
    dataset = load(folder)
    options = {"collate_fn": dataset.collater, "num_workers": num_workers}
    assert list(torch.utils.data.DataLoader(dataset, batch_sampler=[[0], [0]], **options)) == [{}, {}]
    dataset.check_left_out()  # one is allowed
    assert list(torch.utils.data.DataLoader(dataset, batch_sampler=[[0], [1]], **options)) == [{}, {}]
    message = r"2 of 4 utterances are bad, more than 1 %, the last: .*/audio/train[01].flac.*quarantine.tsv"
    with pytest.raises(ValueError, match=message) as error:
        dataset.check_left_out()
    assert "\n" not in str(error.value)
    assert dataset[2]["source"] is None  # what is read ahead until the run stops costs nothing


def test_another_batch_stands_in_where_nothing_is_left_of_the_first(corpus_of, tmp_path):
    folder = corpus_of(tmp_path / "corpus", {"train": [0.5] * 4})
    spoil(folder / "audio" / "train0.flac", "10 ms")
    dataset, given = load(folder), []
    trainer = SimpleNamespace(train_step=None, valid_step=None, reset_dummy_batch=given.append)
    trainer.task = SimpleNamespace(datasets={"train": dataset})
    watch_trainer(trainer)
    for indices in ([2, 3], [0]):
        trainer.reset_dummy_batch(collate(dataset, indices))
    assert [batch["id"].tolist() for batch in given] == [[2, 3], [1]]
    for i in (1, 2, 3):
        spoil(folder / "audio" / f"train{i}.flac", "10 ms")
    trainer.reset_dummy_batch({})
    assert given[-1] == {}  # the next step ends the run


def test_a_bad_file_is_told_once(corpus_of, tmp_path, caplog):
    folder = corpus_of(tmp_path / "corpus", {"train": [0.5] * 4})
    spoil(folder / "audio" / "train0.flac", "10 ms")
    dataset = load(folder)
    for epoch in (1, 2):
        dataset.set_epoch(epoch)
        assert dataset[0]["source"] is None
    assert len(caplog.messages) == 1


def test_the_limit_is_one_percent_of_what_a_process_meets_in_an_epoch():
    for num_processes, allowed in ((1, 8), (4, 2), (64, 1)):
        left_out = LeftOut(800, num_processes)
        for epoch in (1, 2):  # every process meets others in the next epoch
            for index in range(allowed):
                left_out.add(100 * epoch + index, epoch)
                left_out.add(100 * epoch + index, epoch)
        assert left_out.too_many == 0
        left_out.add(700, 2)
        assert left_out.too_many == allowed + 1


def test_every_dataset_is_asked_before_every_step(corpus_of, tmp_path):
    folder = corpus_of(tmp_path / "corpus", {"train": [0.5] * 4, "valid": [0.5] * 2})
    spoil(folder / "audio" / "valid0.flac", "10 ms")
    spoil(folder / "audio" / "valid1.flac", "10 ms")
    task = SimpleNamespace(datasets={name: load(folder, name) for name in ("train", "valid")})
    trainer = SimpleNamespace(task=task, train_step=lambda samples: ("trained", samples), valid_step=lambda sample: 3)
    trainer.reset_dummy_batch = None
    watch_trainer(trainer)
    assert trainer.train_step([1]) == ("trained", [1])
    assert trainer.valid_step(sample=2) == 3
    collate(task.datasets["valid"], [0, 1])
    for step in (trainer.train_step, trainer.valid_step):
        with pytest.raises(ValueError, match="2 of 2 utterances are bad"):
            step(None)


@pytest.mark.parametrize(("multiple", "warned"), [(8, True), (1, False)])
def test_a_dropped_last_batch_is_warned_of(minute_corpus, caplog, multiple, warned):
    dataset = load(minute_corpus)
    with caplog.at_level(logging.WARNING):
        batches = dataset.batch_by_size(np.arange(21), max_sentences=8, required_batch_size_multiple=multiple)
    assert sum(len(batch) for batch in batches) == (16 if warned else 21)
    assert ("5 of 21 utterances are in no batch" in caplog.text) == warned


class Task:
    """What ``watch_datasets`` needs of fairseq's task."""

    def __init__(self, data):
        self.cfg = type("Config", (), {"data": str(data), "binarized_dataset": False, "multi_corpus_keys": None})()
        self.cfg.min_sample_size = 0
        self.datasets = {}

    def load_dataset(self, split, **_):
        self.datasets[split] = FileAudioDataset(f"{self.cfg.data}/{split}.tsv", sample_rate=16000)


def test_what_a_task_loads_is_wrapped_once(minute_corpus):
    task = Task(minute_corpus)
    watch_datasets(task, 1, MIN_SAMPLES)
    watch_datasets(task, 1, MIN_SAMPLES)
    task.load_dataset("valid", epoch=1)
    assert type(task.datasets["valid"]) is KnownUtterances
    assert type(task.datasets["valid"].dataset) is FileAudioDataset


def test_utterances_that_cannot_be_masked_are_refused_with_the_number_to_set(minute_corpus):
    task = Task(minute_corpus)
    watch_datasets(task, 1, min_samples=9600)  # as long as the shortest
    task.load_dataset("valid")
    task = Task(minute_corpus)
    watch_datasets(task, 1, min_samples=10000)
    with pytest.raises(
        ValueError, match=r"valid.tsv has 1 utterances of fewer than 10000 samples.*min_sample_size=10000"
    ):
        task.load_dataset("valid")

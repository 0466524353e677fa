# SPDX-License-Identifier: Apache-2.0
"""fairseq's audio dataset, made reproducible and safe: tells the model which utterances it gets, leaves bad ones out.

The task stays fairseq's ``audio_pretraining`` or ``hubert_pretraining``; what it loads is wrapped on the way.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fairseq.data import BaseWrapperDataset, FairseqDataset, FileAudioDataset, HubertDataset, SubsampleDataset
from fairseq.data.data_utils import numpy_seed
from fairseq.distributed.utils import get_global_world_size
from fairseq.tasks.audio_pretraining import AudioPretrainingTask
from fairseq.tasks.hubert_pretraining import HubertPretrainingTask

from headrace_fairseq import labels
from headrace_fairseq.errors import one_clear_line
from headrace_fairseq.left_out import LeftOut
from headrace_fairseq.manifest import check_folder, check_manifest

logger = logging.getLogger(__name__)


class KnownUtterances(BaseWrapperDataset):
    """Adds the utterances' numbers and the epoch to ``net_input``; crops and batches by (seed, epoch).

    Args:
        dataset: fairseq's, with its ``collater``.
        seed: of the run.
        min_samples: shorter items, NaN, another sample rate and unreadable files are left out with a warning.
        keeps_samples: give the waveforms as fp64, which fairseq's fp16 and bf16 training leaves as it is: it would
            round the samples too, and log-mels of such are log-mels of noise in quiet bands.
    """

    def __init__(self, dataset: FairseqDataset, seed: int, min_samples: int, keeps_samples: bool = False) -> None:
        super().__init__(dataset)
        self.seed, self.min_samples, self.keeps_samples = seed, min_samples, keeps_samples
        # Shared memory, because fairseq keeps the workers of the first epoch for all later ones.
        self._epoch = torch.ones((), dtype=torch.int64).share_memory_()
        self._left_out = LeftOut(len(self), get_global_world_size())

    def set_epoch(self, epoch: int) -> None:
        """Validation sets are never told: their masks and crops are the same each time."""
        super().set_epoch(epoch)
        self._epoch.fill_(epoch)

    def ordered_indices(self) -> np.ndarray:
        """Longest first, ties in an order drawn by (seed, epoch)."""
        with numpy_seed(self.seed, int(self._epoch)):
            return self.dataset.ordered_indices()

    def batch_by_size(
        self,
        indices: np.ndarray,
        max_tokens: int | None = None,
        max_sentences: int | None = None,
        required_batch_size_multiple: int = 1,
    ) -> Sequence[Any]:
        """fairseq's batches, with a warning about those that it drops."""
        batches = super().batch_by_size(indices, max_tokens, max_sentences, required_batch_size_multiple)
        lost = len(indices) - sum(len(batch) for batch in batches)
        if lost:
            logger.warning(
                f"{lost} of {len(indices)} utterances are in no batch: fairseq drops a last batch that is no multiple "
                f"of dataset.required_batch_size_multiple={required_batch_size_multiple}. Set it to 1."
            )
        return batches

    def __getitem__(self, index: int) -> dict[str, Any]:
        """fairseq's item; ``source`` is None where the audio is bad, which its collater leaves out."""
        nothing = {"id": index, "source": None}
        if self._left_out.too_many:  # the run is about to stop, and fairseq tries each file for seconds
            return nothing
        try:
            item = self.dataset[index]
            self._check_source(item["source"])
        # fairseq raises a bare Exception for a file that it cannot read and for another sample rate.
        except Exception as error:
            if self._left_out.add(int(index), int(self._epoch)):
                logger.warning(f"{_name(self.dataset, int(index))} is left out: {error}")
            return nothing
        return item

    def any_batch(self) -> dict[str, Any]:
        """The first utterance that is good; empty where none is."""
        return next(filter(None, (self.collater([self[index]]) for index in range(len(self)))), {})

    def check_left_out(self) -> None:
        """To be called by the process that trains.

        Raises:
            ValueError: too many utterances of one epoch were left out, in whichever worker.
        """
        if self._left_out.too_many:
            raise ValueError(
                f"{self._left_out.too_many} of {self._left_out.num_met} utterances are bad, more than 1 %, the last: "
                f"{_name(self.dataset, self._left_out.last)} (see the warnings). Make the manifest again with "
                "python manifests/wav2vec_manifest.py, which lists bad files in quarantine.tsv and leaves them out; "
                "then go on with checkpoint.reset_dataloader=true."
            )

    def collater(self, samples: list[dict[str, Any]]) -> dict[str, Any]:
        """fairseq's batch; its crops are drawn by (seed, epoch, utterances), in whichever worker."""
        epoch = int(self._epoch)
        with numpy_seed(self.seed, epoch, *(int(sample["id"]) for sample in samples)):
            batch = self.dataset.collater(samples)
        if batch:
            batch["net_input"].update(utterances=batch["id"], epoch=epoch)
            if self.keeps_samples:
                batch["net_input"]["source"] = batch["net_input"]["source"].double()
        return batch

    def _check_source(self, source: torch.Tensor) -> None:
        if len(source) < self.min_samples:
            raise ValueError(f"{len(source)} samples, at least {self.min_samples} are needed")
        if not torch.isfinite(source).all():
            raise ValueError("samples that are NaN or infinite")


def watch_datasets(
    task: AudioPretrainingTask | HubertPretrainingTask, seed: int, min_samples: int, keeps_samples: bool = False
) -> None:
    """From now on, check each manifest that ``task`` loads, and its labels, and wrap the dataset as ``KnownUtterances``
    says. A second call changes nothing.

    Raises:
        ValueError: the folder of manifests does not exist; on loading, what ``check_manifest`` and ``labels.check``
            raise.
    """
    if "load_dataset" in vars(task):
        return
    check_folder(task.cfg.data)
    load = task.load_dataset

    def load_dataset(split: str, *args: Any, **kwargs: Any) -> None:
        with one_clear_line():
            if isinstance(task, HubertPretrainingTask):
                check_manifest(task.cfg.data, split, task.cfg.min_sample_size)
                labels.check(task.cfg, split)
            elif not task.cfg.binarized_dataset and task.cfg.multi_corpus_keys is None:
                check_manifest(task.cfg.data, split, task.cfg.min_sample_size)
            load(split, *args, **kwargs)
            dataset = task.datasets[split]
            _check_lengths(dataset, split, min_samples)
            task.datasets[split] = KnownUtterances(dataset, seed, min_samples, keeps_samples)

    task.load_dataset = load_dataset  # type: ignore[method-assign]


def watch_trainer(trainer: Any) -> None:
    """From now on, fairseq's ``trainer`` ends the run before a step when too many utterances were left out.

    In place of a batch that nothing is left of, fairseq computes an epoch's first one without learning from it; where
    nothing is left of that one either, it is given another.
    """

    def checked(step: Callable[..., Any]) -> Callable[..., Any]:
        def check_and_step(*args: Any, **kwargs: Any) -> Any:
            with one_clear_line():
                for dataset in _watched(trainer):
                    dataset.check_left_out()
            return step(*args, **kwargs)

        return check_and_step

    reset_dummy_batch = trainer.reset_dummy_batch
    trainer.reset_dummy_batch = lambda batch: reset_dummy_batch(
        batch or next(filter(None, (dataset.any_batch() for dataset in _watched(trainer))), {})
    )
    trainer.train_step, trainer.valid_step = checked(trainer.train_step), checked(trainer.valid_step)


def _watched(trainer: Any) -> list[KnownUtterances]:
    return [dataset for dataset in trainer.task.datasets.values() if isinstance(dataset, KnownUtterances)]


def _name(dataset: FairseqDataset, index: int) -> str:
    """An utterance's file where fairseq knows it: ``index`` counts what is long enough, not the manifest's lines."""
    if isinstance(dataset, SubsampleDataset):
        return _name(dataset.dataset, int(dataset.indices[index]))
    if isinstance(dataset, HubertDataset):
        return str(Path(dataset.audio_root, dataset.audio_names[index]))
    if not isinstance(dataset, FileAudioDataset):
        return f"utterance {index}"
    name = dataset.fnames[index]
    name = name if isinstance(dataset.fnames, list) else name.as_py()
    return str(Path(dataset.root_dir, dataset.text_compressor.decompress(name)))


def _check_lengths(dataset: FairseqDataset, split: str, min_samples: int) -> None:
    too_short = int((np.asarray(dataset.sizes) < min_samples).sum())
    if too_short:
        raise ValueError(
            f"{split}.tsv has {too_short} utterances of fewer than {min_samples} samples, in which masking would leave "
            f"no frame to see: set task.min_sample_size={min_samples} or more to leave them out."
        )

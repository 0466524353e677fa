# SPDX-License-Identifier: Apache-2.0
"""fairseq's audio dataset, made reproducible and safe: tells the model which utterances it gets, leaves bad ones out.

The task stays fairseq's ``audio_pretraining``; what it loads is wrapped on the way.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from fairseq.data import BaseWrapperDataset, FairseqDataset
from fairseq.data.data_utils import numpy_seed
from fairseq.tasks.audio_pretraining import AudioPretrainingTask

from headrace_fairseq.errors import one_clear_line
from headrace_fairseq.manifest import check_folder, check_manifest

logger = logging.getLogger(__name__)
MAX_BAD_SHARE = 0.01


class KnownUtterances(BaseWrapperDataset):
    """Adds the utterances' numbers and the epoch to ``net_input``; crops and batches by (seed, epoch).

    Args:
        dataset: fairseq's, with its ``collater``.
        seed: of the run.
        min_samples: shorter items, NaN, another sample rate and unreadable files are left out with a warning.
    """

    def __init__(self, dataset: FairseqDataset, seed: int, min_samples: int) -> None:
        super().__init__(dataset)
        self.seed, self.min_samples = seed, min_samples
        # Shared memory, because fairseq keeps the workers of the first epoch for all later ones.
        self._epoch = torch.ones((), dtype=torch.int64).share_memory_()
        self._bad: set[int] = set()

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
        try:
            item = self.dataset[index]
            self._check_source(item["source"])
        # fairseq raises a bare Exception for a file that it cannot read and for another sample rate.
        except Exception as error:
            self._leave_out(int(index), error)
            return {"id": index, "source": None}
        return item

    def collater(self, samples: list[dict[str, Any]]) -> dict[str, Any]:
        """fairseq's batch; its crops are drawn by (seed, epoch, utterances), in whichever worker."""
        epoch = int(self._epoch)
        with numpy_seed(self.seed, epoch, *(int(sample["id"]) for sample in samples)):
            batch = self.dataset.collater(samples)
        if batch:
            batch["net_input"].update(utterances=batch["id"], epoch=epoch)
        return batch

    def _check_source(self, source: torch.Tensor) -> None:
        if len(source) < self.min_samples:
            raise ValueError(f"{len(source)} samples, at least {self.min_samples} are needed")
        if not torch.isfinite(source).all():
            raise ValueError("samples that are NaN or infinite")

    def _leave_out(self, index: int, error: Exception) -> None:
        if index in self._bad:
            return
        self._bad.add(index)
        logger.warning(f"utterance {index} is left out: {error}")
        if len(self._bad) > max(1, MAX_BAD_SHARE * len(self)):
            raise ValueError(
                f"{len(self._bad)} of {len(self)} utterances are bad, the last: {error}. Make the manifest again with "
                "python manifests/wav2vec_manifest.py, which lists bad files in quarantine.tsv and leaves them out."
            ) from error


def watch_datasets(task: AudioPretrainingTask, seed: int, min_samples: int) -> None:
    """From now on, check each manifest that ``task`` loads, and wrap the dataset. A second call changes nothing.

    Raises:
        ValueError: the folder of manifests does not exist; on loading, what ``check_manifest`` raises.
    """
    if "load_dataset" in vars(task):
        return
    check_folder(task.cfg.data)
    load = task.load_dataset

    def load_dataset(split: str, *args: Any, **kwargs: Any) -> None:
        with one_clear_line():
            if not task.cfg.binarized_dataset and task.cfg.multi_corpus_keys is None:
                check_manifest(task.cfg.data, split, task.cfg.min_sample_size)
            load(split, *args, **kwargs)
            dataset = task.datasets[split]
            _check_lengths(dataset, split, min_samples)
            task.datasets[split] = KnownUtterances(dataset, seed, min_samples)

    task.load_dataset = load_dataset  # type: ignore[method-assign]


def _check_lengths(dataset: FairseqDataset, split: str, min_samples: int) -> None:
    too_short = int((np.asarray(dataset.sizes) < min_samples).sum())
    if too_short:
        raise ValueError(
            f"{split}.tsv has {too_short} utterances of fewer than {min_samples} samples, in which masking would leave "
            f"no frame to see: set task.min_sample_size={min_samples} or more to leave them out."
        )

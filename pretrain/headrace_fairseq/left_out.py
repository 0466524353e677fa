# SPDX-License-Identifier: Apache-2.0
"""Which utterances were left out because their audio is bad: one record for all data workers of a process."""

from __future__ import annotations

import torch

MAX_BAD_SHARE = 0.01


class LeftOut:
    """Marks in shared memory, so that what each worker finds counts towards one limit.

    Args:
        num_utterances: of the dataset.
        num_processes: that share the dataset, one for each GPU: in an epoch each of them meets its part only.
    """

    def __init__(self, num_utterances: int, num_processes: int) -> None:
        self.num_met = -(-num_utterances // num_processes)
        # The epoch in which an utterance was last left out. Workers write different places, so that no lock is needed.
        self._epoch = torch.zeros(num_utterances, dtype=torch.int32).share_memory_()
        self._last = torch.zeros((), dtype=torch.int64).share_memory_()
        self._too_many = torch.zeros((), dtype=torch.int64).share_memory_()

    def add(self, index: int, epoch: int) -> bool:
        """Whether this is the first time."""
        is_first = int(self._epoch[index]) == 0
        self._epoch[index] = epoch
        self._last.fill_(index)
        count = int((self._epoch == epoch).sum())
        if count > max(1, MAX_BAD_SHARE * self.num_met):  # one is always allowed
            self._too_many.fill_(count)
        return is_first

    @property
    def too_many(self) -> int:
        """How many different ones there were in an epoch, once that is more than may be; 0 before."""
        return int(self._too_many)

    @property
    def last(self) -> int:
        """The one found last."""
        return int(self._last)

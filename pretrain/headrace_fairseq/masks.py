# SPDX-License-Identifier: Apache-2.0
"""Which frames and channels are masked: a function of seed, epoch and utterance.

fairseq's model draws its masks from operating-system entropy. Here the same seed gives the same run, a resumed run goes
on as if it had never stopped, and an utterance's mask depends on its companions in the batch only through the number of
masked frames, which fairseq's loss needs to be the same for all.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from fairseq.data.data_utils import compute_mask_indices

MIN_SPANS = 2  # per utterance, as in fairseq's model
CHANNEL_STREAM = 1_000_003  # added to the seed, so that channels are not drawn like frames
THINNING_STREAM = 2_000_003


def time_mask(
    lengths: torch.Tensor, num_frames: int, cfg: Any, seed: int, epoch: int, utterances: torch.Tensor
) -> torch.Tensor:
    """Frames to replace by the mask embedding, as fairseq's ``compute_mask_indices`` defines them.

    Args:
        lengths: [N] int64, frames of each utterance; num_frames: T.
        cfg: the model's ``mask_*`` fields.
        utterances: [N] int64, the utterances' numbers in the manifest.

    Returns:
        [N, T] bool on the CPU, with the same number of True in each row where ``cfg.require_same_masks``.
    """
    rows = [
        compute_mask_indices(
            (1, int(length)),
            None,
            cfg.mask_prob,
            cfg.mask_length,
            cfg.mask_selection,
            cfg.mask_other,
            min_masks=MIN_SPANS,
            no_overlap=cfg.no_mask_overlap,
            min_space=cfg.mask_min_space,
            require_same_masks=False,
            mask_dropout=cfg.mask_dropout,
            seed=seed,
            epoch=epoch,
            indices=utterances[i : i + 1],
        )[0]
        for i, length in enumerate(lengths)
    ]
    if cfg.require_same_masks:
        fewest = min(int(row.sum()) for row in rows)
        for row, utterance in zip(rows, utterances, strict=True):
            _thin(row, fewest, np.random.default_rng([seed + THINNING_STREAM, epoch, int(utterance)]))
    mask = np.zeros((len(rows), num_frames), dtype=bool)
    for i, row in enumerate(rows):
        mask[i, : len(row)] = row
    return torch.from_numpy(mask)


def channel_mask(
    num_frames: int, num_channels: int, cfg: Any, seed: int, epoch: int, utterances: torch.Tensor
) -> torch.Tensor:
    """Channels to set to zero for a whole utterance: [N, T, C] bool on the CPU, the same for every frame."""
    mask = compute_mask_indices(
        (len(utterances), num_channels),
        None,
        cfg.mask_channel_prob,
        cfg.mask_channel_length,
        cfg.mask_channel_selection,
        cfg.mask_channel_other,
        no_overlap=cfg.no_mask_channel_overlap,
        min_space=cfg.mask_channel_min_space,
        require_same_masks=False,
        seed=seed + CHANNEL_STREAM,
        epoch=epoch,
        indices=utterances,
    )
    return torch.from_numpy(mask)[:, None, :].expand(-1, num_frames, -1)


def min_frames(cfg: Any) -> int:
    """The fewest frames of which masking always leaves one; fairseq refuses to mask a whole utterance."""
    frames = MIN_SPANS * cfg.mask_length + 1
    while max(MIN_SPANS, int(cfg.mask_prob * frames / cfg.mask_length + 1)) * cfg.mask_length >= frames:
        frames += 1
        if frames > 10_000 * cfg.mask_length:
            raise ValueError(f"mask_prob={cfg.mask_prob} masks whole utterances at any length; choose one below 1.")
    return frames


def _thin(row: np.ndarray, target: int, generator: np.random.Generator) -> None:
    """Unmask frames in place until ``target`` are masked."""
    masked = np.flatnonzero(row)
    row[generator.choice(masked, len(masked) - target, replace=False)] = False

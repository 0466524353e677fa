# SPDX-License-Identifier: Apache-2.0
"""HuBERT pretraining with headrace's encoder: fairseq's forward, label embeddings and loss as they are."""

from __future__ import annotations

from typing import Any

import torch
from fairseq.data import Dictionary
from fairseq.models import register_model
from fairseq.models.hubert.hubert import HubertModel
from fairseq.tasks.hubert_pretraining import HubertPretrainingConfig, HubertPretrainingTask
from omegaconf import DictConfig

from headrace_fairseq import masks
from headrace_fairseq.config import HeadraceHubertConfig, encoder_config
from headrace_fairseq.data import watch_datasets
from headrace_fairseq.encoder_inside import EncoderInside, for_fairseq
from headrace_fairseq.errors import one_clear_line
from headrace_fairseq.labels import check_dictionaries


@register_model("headrace_hubert", dataclass=HeadraceHubertConfig)
class HeadraceHubertModel(EncoderInside, HubertModel):
    """fairseq's HuBERT model whose encoder is a SpeechEncoder."""

    def __init__(self, cfg: DictConfig, task_cfg: HubertPretrainingConfig, dictionaries: list[Dictionary]) -> None:
        config = encoder_config(cfg)  # the caller's mistakes first
        HubertModel.__init__(self, for_fairseq(cfg, config), task_cfg, dictionaries)
        self.put_encoder_inside(cfg, config)

    @classmethod
    def build_model(cls, cfg: DictConfig, task: HubertPretrainingTask) -> HeadraceHubertModel:
        """fairseq's entry; from here on the task's datasets say which utterances they give."""
        with one_clear_line():
            check_dictionaries(task.cfg)
            model = cls(cfg, task.cfg, task.dictionaries)
            watch_datasets(task, cfg.seed, model.min_samples, model.keeps_samples)
        return model

    @property
    def min_samples(self) -> int:
        """One frame more than masking needs: fairseq leaves out the frames behind the last label."""
        return super().min_samples + self.speech_encoder.frontend.stride_samples

    def forward(
        self,
        source: torch.Tensor,
        target_list: list[torch.Tensor] | None = None,
        padding_mask: torch.Tensor | None = None,
        mask: bool = True,
        features_only: bool = False,
        output_layer: int | None = None,
        utterances: torch.Tensor | None = None,
        epoch: int = 1,
    ) -> dict[str, Any]:
        """fairseq's forward, masked by (seed, epoch, utterance).

        Args:
            source, padding_mask: [N, samples].
            target_list: for each kind of label [N, labels] int64.
            mask, features_only, output_layer: as in fairseq; layers count from 1.
            utterances: [N] int64, numbers in the manifest; without them fairseq draws the masks.
            epoch: of the data; stays 1 for a validation set.
        """
        with self.known_batch(utterances, epoch):
            return super().forward(source, target_list, padding_mask, mask, features_only, output_layer)

    def apply_mask(
        self, x: torch.Tensor, padding_mask: torch.Tensor | None, target_list: list[torch.Tensor] | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """fairseq's, by (seed, epoch, utterance) where they are known: x [N, T, C] and the masked frames [N, T]."""
        if self.batch is None:
            return super().apply_mask(x, padding_mask, target_list)
        (utterances, epoch), cfg = self.batch, self.cfg
        num_frames, width = x.shape[1:]
        lengths = torch.full(x.shape[:1], num_frames) if padding_mask is None else (~padding_mask).sum(-1).cpu()
        mask = None
        if cfg.mask_prob > 0:
            mask = masks.time_mask(lengths, num_frames, cfg, cfg.seed, epoch, utterances).to(x.device)
            x[mask] = self.mask_emb.to(x.dtype)
        if cfg.mask_channel_prob > 0:
            x[masks.channel_mask(num_frames, width, cfg, cfg.seed, epoch, utterances).to(x.device)] = 0
        return x, mask

    def forward_padding_mask(self, features: torch.Tensor, padding_mask: torch.Tensor) -> torch.Tensor:
        """The frames [N, T] that an utterance alone would not have; fairseq may count one more, of padding."""
        lengths = self.speech_encoder.frontend.num_frames((~padding_mask).sum(-1))
        return torch.arange(features.shape[1], device=features.device) >= lengths[:, None]

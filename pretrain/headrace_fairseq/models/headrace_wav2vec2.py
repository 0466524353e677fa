# SPDX-License-Identifier: Apache-2.0
"""wav2vec 2.0 pretraining with headrace's encoder: fairseq's forward, quantizer, negatives and loss as they are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from fairseq.models import register_model
from fairseq.models.wav2vec.wav2vec2 import Wav2Vec2Model
from fairseq.tasks.audio_pretraining import AudioPretrainingTask
from omegaconf import DictConfig

from headrace_fairseq import masks
from headrace_fairseq.config import HeadraceWav2Vec2Config, encoder_config
from headrace_fairseq.data import watch_datasets
from headrace_fairseq.encoder_inside import EncoderInside, for_fairseq
from headrace_fairseq.errors import one_clear_line


@register_model("headrace_wav2vec2", dataclass=HeadraceWav2Vec2Config)
class HeadraceWav2Vec2Model(EncoderInside, Wav2Vec2Model):
    """fairseq's wav2vec2 model whose encoder is a SpeechEncoder."""

    def __init__(self, cfg: DictConfig) -> None:
        config = encoder_config(cfg)  # the caller's mistakes first
        Wav2Vec2Model.__init__(self, for_fairseq(cfg, config))
        self.put_encoder_inside(cfg, config)

    @classmethod
    def build_model(cls, cfg: DictConfig, task: Any = None) -> HeadraceWav2Vec2Model:
        """fairseq's entry; from here on the task's datasets say which utterances they give."""
        with one_clear_line():
            model = cls(cfg)
            if isinstance(task, AudioPretrainingTask):
                watch_datasets(task, cfg.seed, model.min_samples, model.keeps_samples)
        return model

    def forward(
        self,
        source: torch.Tensor,
        padding_mask: torch.Tensor | None = None,
        mask: bool = True,
        utterances: torch.Tensor | None = None,
        epoch: int = 1,
        **options: Any,
    ) -> dict[str, Any]:
        """fairseq's forward, masked by (seed, epoch, utterance).

        Args:
            source, padding_mask: [N, samples].
            mask: as in fairseq.
            utterances: [N] int64, numbers in the manifest; without them fairseq draws the masks.
            epoch: of the data; stays 1 for a validation set.
            options: fairseq's other arguments.
        """
        if utterances is None:
            return super().forward(source, padding_mask, mask, **options)
        if mask:
            options |= self._masks(source, padding_mask, utterances.cpu(), epoch)
        with self.known_batch(utterances, epoch), self._same_draws_when_validating(utterances):
            return super().forward(source, padding_mask, mask, **options)

    def _get_feat_extract_output_lengths(self, input_lengths: torch.Tensor) -> torch.Tensor:
        return self.speech_encoder.frontend.num_frames(input_lengths)

    def _masks(
        self, source: torch.Tensor, padding_mask: torch.Tensor | None, utterances: torch.Tensor, epoch: int
    ) -> dict[str, torch.Tensor]:
        """``mask_indices`` [N, T] and ``mask_channel_indices`` [N, T, C], where the configuration asks for them."""
        cfg, chosen = self.cfg, {}
        num_samples = torch.full(source.shape[:1], source.shape[1])
        if padding_mask is not None:
            num_samples = (~padding_mask).sum(-1).cpu()
        num_frames = int(self._get_feat_extract_output_lengths(torch.tensor(source.shape[1])))
        num_frames -= num_frames % self.crop_seq_to_multiple
        lengths = self._get_feat_extract_output_lengths(num_samples).clamp(max=num_frames)
        if cfg.mask_prob > 0:
            chosen["mask_indices"] = masks.time_mask(lengths, num_frames, cfg, cfg.seed, epoch, utterances)
        if cfg.mask_channel_prob > 0:
            width = self.speech_encoder.config.embed_dim
            chosen["mask_channel_indices"] = masks.channel_mask(num_frames, width, cfg, cfg.seed, epoch, utterances)
        return {name: mask.to(source.device) for name, mask in chosen.items()}

    @contextmanager
    def _same_draws_when_validating(self, utterances: torch.Tensor) -> Iterator[None]:
        """fairseq seeds torch before each update, but not before a validation batch, whose negatives then vary."""
        with torch.random.fork_rng(devices=[], enabled=not self.training):
            if not self.training:
                torch.default_generator.manual_seed(int(self.cfg.seed) * 1_000_003 + int(utterances[0]))
            yield

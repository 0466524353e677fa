# SPDX-License-Identifier: Apache-2.0
"""wav2vec 2.0 pretraining with headrace's encoder: fairseq's forward, quantizer, negatives and loss as they are."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from fairseq.distributed.utils import get_global_rank
from fairseq.models import register_model
from fairseq.models.wav2vec.wav2vec2 import Wav2Vec2Model
from fairseq.tasks.audio_pretraining import AudioPretrainingTask
from omegaconf import DictConfig

from headrace import SpeechEncoder
from headrace_fairseq import masks
from headrace_fairseq.config import HeadraceWav2Vec2Config, encoder_config
from headrace_fairseq.data import watch_datasets
from headrace_fairseq.errors import one_clear_line
from headrace_fairseq.names import from_fairseq_names, to_fairseq_names, why_not
from headrace_fairseq.progress import Progress


@register_model("headrace_wav2vec2", dataclass=HeadraceWav2Vec2Config)
class HeadraceWav2Vec2Model(Wav2Vec2Model):
    """fairseq's wav2vec2 model whose encoder is a SpeechEncoder; its checkpoints carry fairseq's names.

    The methods ``feature_extractor``, ``layer_norm``, ``post_extract_proj`` and ``encoder`` stand where fairseq's
    forward looks for the modules of these names.
    """

    def __init__(self, cfg: DictConfig) -> None:
        config = encoder_config(cfg)
        super().__init__(_without_layers(cfg))
        for name in ("feature_extractor", "layer_norm", "post_extract_proj", "encoder"):
            self._modules.pop(name, None)
            self.__dict__.pop(name, None)  # fairseq's post_extract_proj is a plain None where widths agree
        self.cfg = cfg
        self.speech_encoder = SpeechEncoder(config)
        self.progress = Progress(cfg.max_update, cfg.log_interval)
        self.register_state_dict_post_hook(to_fairseq_names)
        self.register_load_state_dict_pre_hook(from_fairseq_names)

    @classmethod
    def build_model(cls, cfg: DictConfig, task: Any = None) -> HeadraceWav2Vec2Model:
        """fairseq's entry; from here on the task's datasets say which utterances they give."""
        with one_clear_line():
            model = cls(cfg)
            if isinstance(task, AudioPretrainingTask):
                watch_datasets(task, cfg.seed, model.min_samples)
        return model

    @property
    def min_samples(self) -> int:
        """The shortest utterance that can be masked and leave a frame to see."""
        frontend = self.speech_encoder.frontend
        return frontend.window_samples + (masks.min_frames(self.cfg) - 1) * frontend.stride_samples

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
        with self._same_draws_when_validating(utterances):
            return super().forward(source, padding_mask, mask, **options)

    def feature_extractor(self, source: torch.Tensor) -> torch.Tensor:
        """[N, samples] -> [N, channels, T]."""
        return self.speech_encoder.frontend(source).mT

    def layer_norm(self, features: torch.Tensor) -> torch.Tensor:
        """What the quantizer sees: [N, T, channels]."""
        return self.speech_encoder.project.norm(features)

    def post_extract_proj(self, features: torch.Tensor) -> torch.Tensor:
        """[N, T, channels] -> [N, T, C], to be masked."""
        linear = self.speech_encoder.project.linear
        return features if linear is None else linear(features)

    def encoder(
        self,
        x: torch.Tensor,
        padding_mask: torch.Tensor | None = None,
        layer: int | None = None,
        corpus_key: None = None,
    ) -> tuple[torch.Tensor, list[tuple[torch.Tensor, None, None]]]:
        """fairseq's TransformerEncoder: the last frames [N, T, C], or those of ``layer``; each layer's [T, N, C]."""
        lengths = None if padding_mask is None else (~padding_mask).sum(-1)
        context = self.speech_encoder.context
        hidden_states = context(x, lengths)
        outputs = hidden_states[1:]
        x = context.output(hidden_states, lengths) if layer is None else outputs[layer]
        return x, [(output.transpose(0, 1), None, None) for output in outputs]

    def set_num_updates(self, num_updates: int) -> None:
        """Called by fairseq before each update."""
        super().set_num_updates(num_updates)
        if get_global_rank() == 0:
            self.progress.update(num_updates)

    def load_state_dict(
        self, state_dict: Mapping[str, torch.Tensor], strict: bool = True, model_cfg: Any = None, args: Any = None
    ) -> Any:
        """fairseq's, with a clear line when the checkpoint is another model's."""
        with one_clear_line():
            problem = why_not(state_dict, self.state_dict()) if strict else None
            if problem:
                raise ValueError(problem)
        return super().load_state_dict(state_dict, strict, model_cfg, args)

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


def _without_layers(cfg: DictConfig) -> DictConfig:
    """fairseq's own transformer is built and thrown away: without layers."""
    cfg = copy.copy(cfg)
    cfg.encoder_layers = 0
    return cfg

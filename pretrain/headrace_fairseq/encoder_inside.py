# SPDX-License-Identifier: Apache-2.0
"""headrace's encoder inside one of fairseq's models: what wav2vec 2.0 and HuBERT have in common.

fairseq's forward looks for modules named ``feature_extractor``, ``layer_norm``, ``post_extract_proj`` and ``encoder``.
Methods of these names stand there instead, so that objective, masks, loss and log keys stay fairseq's.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from fairseq.distributed.utils import get_global_rank
from omegaconf import DictConfig

from headrace import EncoderConfig, SpeechEncoder
from headrace.frontends import FRONTENDS
from headrace.log_mel import LogMelFrontend
from headrace.reach import Reach
from headrace_fairseq import masks
from headrace_fairseq.errors import one_clear_line
from headrace_fairseq.names import from_fairseq_names, to_fairseq_names, why_not
from headrace_fairseq.progress import Progress

REPLACED = ("feature_extractor", "layer_norm", "post_extract_proj", "encoder")


class EncoderInside(torch.nn.Module):
    """The first base of a model whose second base is fairseq's; its checkpoints carry fairseq's names."""

    cfg: DictConfig
    speech_encoder: SpeechEncoder
    progress: Progress
    batch: tuple[torch.Tensor, int] | None = None  # utterances [N] and epoch, while the forward of a known batch runs
    updates = 0  # that fairseq has said

    def put_encoder_inside(self, cfg: DictConfig, config: EncoderConfig) -> None:
        """In place of the modules that fairseq's constructor has built; ``config`` is ``encoder_config(cfg)``."""
        for name in REPLACED:
            self._modules.pop(name, None)
            self.__dict__.pop(name, None)  # fairseq's post_extract_proj is a plain None where widths agree
        self.cfg = cfg
        self.speech_encoder = SpeechEncoder(config)
        self.progress = Progress(cfg.max_update, cfg.log_interval)
        self.register_state_dict_post_hook(to_fairseq_names)
        self.register_load_state_dict_pre_hook(from_fairseq_names)

    @property
    def min_samples(self) -> int:
        """The shortest utterance that can be masked and leave a frame to see."""
        frontend = self.speech_encoder.frontend
        return frontend.window_samples + (masks.min_frames(self.cfg) - 1) * frontend.stride_samples

    @property
    def keeps_samples(self) -> bool:
        """Whether the front-end wants unrounded samples where the rest is fp16 or bf16."""
        return isinstance(self.speech_encoder.frontend, LogMelFrontend)

    def feature_extractor(self, source: torch.Tensor) -> torch.Tensor:
        """[N, samples] -> [N, channels, T]."""
        return self.speech_encoder.frontend(source).mT

    def layer_norm(self, features: torch.Tensor) -> torch.Tensor:
        """What wav2vec 2.0's quantizer sees: [N, T, channels]."""
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
        hidden_states = context(x, lengths, self._drawn_reach())
        outputs = hidden_states[1:]
        x = context.output(hidden_states, lengths) if layer is None else outputs[layer]
        return x, [(output.transpose(0, 1), None, None) for output in outputs]

    @contextmanager
    def known_batch(self, utterances: torch.Tensor | None, epoch: int) -> Iterator[None]:
        """While the forward of these utterances [N] runs, what is drawn is drawn by them."""
        self.batch = None if utterances is None else (utterances.cpu(), epoch)
        try:
            yield
        finally:
            self.batch = None

    def _drawn_reach(self) -> Reach | None:
        """In training where reaches are drawn, by (seed, epoch, utterances), or by (seed, update) where a task does not
        say which utterances it gives, as fine-tuning; None: the configuration's.
        """
        config = self.speech_encoder.config
        if not self.training or config.drawn_reach is None:
            return None
        utterances, epoch = self.batch or (torch.empty(0), self.updates)
        return config.drawn_reach.draw(config.mixer, int(self.cfg.seed), epoch, *utterances.tolist())

    def set_num_updates(self, num_updates: int) -> None:
        """Called by fairseq before each update."""
        super().set_num_updates(num_updates)  # pyright: ignore[reportAttributeAccessIssue]
        self.updates = num_updates
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
        return super().load_state_dict(state_dict, strict, model_cfg, args)  # pyright: ignore[reportCallIssue]


def for_fairseq(cfg: DictConfig, config: EncoderConfig) -> DictConfig:
    """What fairseq's constructor builds of its own encoder is thrown away: no layers.

    It reads the width and the rate of features from its convolutions' configuration, too. A front-end that has others
    is one convolution of the same width, window and stride to it.
    """
    cfg = copy.copy(cfg)
    cfg.encoder_layers = 0
    if config.frontend != "waveform":
        frontend = FRONTENDS[config.frontend](config)
        cfg.conv_feature_layers = f"[({frontend.num_channels}, {frontend.window_samples}, {frontend.stride_samples})]"
    return cfg

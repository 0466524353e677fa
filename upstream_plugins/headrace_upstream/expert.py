# SPDX-License-Identifier: Apache-2.0
"""An encoder behind the interface of s3prl's upstreams: a list of waveforms in, a dict with L+1 hidden states out.

s3prl asks for that dict and for ``get_downsample_rates``; its base class adds hooks for models that do not return their
hidden states. So nothing here imports s3prl, and an upstream from torch.hub runs where s3prl is not installed.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

import headrace
from headrace.checkpoint import from_fairseq

SAMPLE_RATE = 16000  # of every waveform that s3prl hands to an upstream


class EncoderUpstream(nn.Module):
    """An encoder as s3prl calls it: ``upstream(wavs)["hidden_states"]``.

    A waveform of n samples gets ceil(n / stride) frames: it is padded, by itself, with zeros until its last is whole.
    Both of s3prl's featurizers accept that count: the runner's cuts to round(n / stride), that of s3prl.nn wants ceil.

    Raises:
        ValueError: the encoder is made for another sample rate than s3prl's 16 kHz.
    """

    def __init__(self, encoder: headrace.SpeechEncoder) -> None:
        super().__init__()
        if encoder.config.sample_rate != SAMPLE_RATE:
            raise ValueError(
                f"encoder must be made for the {SAMPLE_RATE} Hz of s3prl's waveforms, got one for "
                f"{encoder.config.sample_rate} Hz; pretrain one on audio at {SAMPLE_RATE} Hz."
            )
        self.encoder = encoder
        self.train(encoder.training)

    def get_downsample_rates(self, key: str) -> int:
        """Samples a frame; the same for every key of the result."""
        return self.encoder.frontend.stride_samples

    def forward(self, wavs: list[torch.Tensor]) -> dict[str, torch.Tensor | list[torch.Tensor]]:
        """Encode waveforms; no item's frames depend on its companions.

        Args:
            wavs: float tensors [samples] at 16 kHz, of any lengths from 1 on.

        Returns:
            hidden_states: L+1 tensors [N, T, C], zero past an item's own ceil(samples / stride) frames;
            hidden_state_0 .. hidden_state_L and last_hidden_state: each of them by name, for s3prl's ``-s``.

        Raises:
            ValueError: a waveform is not [samples] or is empty.
        """
        padded = [self._pad(wav, index) for index, wav in enumerate(wavs)]
        num_samples = torch.tensor([len(wav) for wav in padded], device=padded[0].device)
        states = self.encoder(pad_sequence(padded, batch_first=True), num_samples).hidden_states
        by_name = {f"hidden_state_{layer}": state for layer, state in enumerate(states)}
        return {"hidden_states": states, "last_hidden_state": states[-1], **by_name}

    def _pad(self, wav: torch.Tensor, index: int) -> torch.Tensor:
        """[samples] -> [samples that make ceil(samples / stride) frames], normalised where the encoder wants it."""
        if wav.dim() != 1 or len(wav) == 0:
            raise ValueError(
                f"wavs[{index}] must be [samples] with at least one sample, got shape {tuple(wav.shape)}; "
                "leave empty files out and mix channels down when the manifest is made."
            )
        if self.encoder.config.normalize_waveform:
            wav = F.layer_norm(wav, wav.shape)  # as fairseq's dataset and s3prl's own wav2vec2 do
        return F.pad(wav, (0, self.encoder.frontend.whole_samples(len(wav)) - len(wav)))


class UpstreamExpert(EncoderUpstream):
    """What s3prl constructs, with its arguments: an upstream from a checkpoint.

    Args:
        ckpt: a portable folder, a model hub id such as "team/llsa-base", or a checkpoint file that fairseq wrote.
        model_config: s3prl's ``-g``; an encoder's configuration lies in its checkpoint, so there is nothing to give.

    Raises:
        ValueError: what is missing, refused or damaged.
    """

    def __init__(self, ckpt: str | Path | None, model_config: str | None = None) -> None:
        refuse_model_config(model_config)
        super().__init__(load_encoder(ckpt))


def refuse_model_config(model_config: str | None) -> None:
    """Raise ValueError where s3prl's ``-g`` was given: there is nothing that it could change."""
    if model_config is not None:
        raise ValueError(
            f"model_config (-g) must be left out, got {model_config!r}: the configuration lies in the checkpoint; "
            "for another mixer or look-ahead write a new folder with `headrace export`."
        )


def load_encoder(ckpt: str | Path | None) -> headrace.SpeechEncoder:
    """The encoder of a portable folder, of a model hub id or of a fairseq checkpoint file, in eval mode.

    Raises:
        ValueError: ckpt was not given, is a URL, is not there, or cannot be loaded.
    """
    if ckpt is None:
        raise ValueError("ckpt (s3prl: -k) must be a portable folder or a fairseq checkpoint file; none was given.")
    if "://" in str(ckpt):
        raise ValueError(f"{ckpt} is a URL; headrace_local reads what lies here, headrace_url downloads.")
    if Path(ckpt).expanduser().is_file():
        return from_fairseq(Path(ckpt).expanduser())
    return headrace.load(ckpt)

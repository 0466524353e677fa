# SPDX-License-Identifier: Apache-2.0
"""A downstream ASR head that runs without s3prl: learned layer weights, LSTMs that run forwards, CTC.

s3prl trains it (``downstream/asr/config_causal.yaml``), ``downstream/export_head.py`` puts it into a portable folder,
and it gives, frame by frame, the hypotheses that s3prl's own inference gives on the whole utterance.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import safetensors
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

from headrace.checkpoint.files import write_tensors, written_whole
from headrace.checkpoint.names import check_state

FORMAT_VERSION = 1
WORD_SEPARATOR = "|"

LstmState = list[tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True)
class HeadConfig:
    """Shape of a CtcHead.

    num_hidden_states, embed_dim: of the encoder, L + 1 and C.
    normalize: LayerNorm without weights of every hidden state (s3prl's --upstream_feature_normalize).
    project_dim: what the first LSTM sees.
    dims, layer_norms, projections: of each LSTM its width, and whether a LayerNorm and a tanh layer follow it.
    symbols: what the classes stand for; "|" separates words.
    blank, end: classes that stand for nothing: CTC's blank, and the end of a sentence.
    """

    num_hidden_states: int
    embed_dim: int
    normalize: bool
    project_dim: int
    dims: list[int]
    layer_norms: list[bool]
    projections: list[bool]
    symbols: list[str]
    blank: int
    end: int


class CtcHead(nn.Module):
    """Hidden states -> log probabilities of symbols, a step at a time."""

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        self.config = config
        self.layer_weights = nn.Parameter(torch.zeros(config.num_hidden_states))
        self.project = nn.Linear(config.embed_dim, config.project_dim)
        inputs = [config.project_dim, *config.dims[:-1]]
        self.lstms = nn.ModuleList(nn.LSTM(i, o, batch_first=True) for i, o in zip(inputs, config.dims, strict=True))
        self.norms = nn.ModuleList(
            nn.LayerNorm(dim) if wanted else nn.Identity()
            for dim, wanted in zip(config.dims, config.layer_norms, strict=True)
        )
        self.projections = nn.ModuleList(
            nn.Sequential(nn.Linear(dim, dim), nn.Tanh()) if wanted else nn.Identity()
            for dim, wanted in zip(config.dims, config.projections, strict=True)
        )
        self.classify = nn.Linear(config.dims[-1], len(config.symbols))

    def forward(
        self, hidden_states: Sequence[torch.Tensor], state: LstmState | None = None
    ) -> tuple[torch.Tensor, LstmState]:
        """The next frames.

        Args:
            hidden_states: L+1 tensors [N, T, C].
            state: what the last call returned; None at the start.

        Returns:
            log probabilities [N, T, symbols], and the state.
        """
        features = torch.stack(list(hidden_states))
        if self.config.normalize:
            features = F.layer_norm(features, features.shape[-1:])
        x = self.project(torch.einsum("l,lntc->ntc", self.layer_weights.softmax(0), features))
        after: LstmState = []
        for i, (lstm, norm, project) in enumerate(zip(self.lstms, self.norms, self.projections, strict=True)):
            x, carried = lstm(x, None if state is None else state[i])
            after.append(carried)
            x = project(norm(x))
        return self.classify(x).log_softmax(-1), after


class Transcript:
    """Greedy CTC: the best symbol of each frame, repeats and blanks left out."""

    def __init__(self, config: HeadConfig) -> None:
        self._config, self._last, self._symbols = config, -1, [""]

    def add(self, log_probabilities: torch.Tensor) -> str:
        """The next frames [T, symbols]; returns the text that they add."""
        before = self.text
        for best in log_probabilities.argmax(-1).tolist():
            if best not in (self._last, self._config.blank, self._config.end):
                self._symbols.append(self._config.symbols[best])
            self._last = best
        return self.text[len(before) :]

    @property
    def text(self) -> str:
        """All of it so far: words with one space between them."""
        return " ".join("".join(self._symbols).replace(WORD_SEPARATOR, " ").split())


def save_head(head: CtcHead, folder: Path) -> None:
    """Put a head beside the encoder that it was trained on: head.json and head.safetensors.

    Raises:
        OSError: they could not be written; what stood there before stays.
    """
    config = {"format_version": FORMAT_VERSION, **asdict(head.config)}
    with written_whole(folder / "head.safetensors") as partial:
        write_tensors({name: x.detach().cpu() for name, x in head.state_dict().items()}, partial)
    with written_whole(folder / "head.json") as partial:
        partial.write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")


def load_head(folder: str | Path) -> CtcHead | None:
    """The head of a portable folder in eval mode; None where there is none.

    Raises:
        ValueError: it is damaged, incomplete, or of another format version.
    """
    folder = Path(folder)
    if not (folder / "head.json").is_file():
        return None
    try:
        values = json.loads((folder / "head.json").read_text(encoding="utf-8"))
        state = load_file(folder / "head.safetensors")
    except (json.JSONDecodeError, safetensors.SafetensorError, FileNotFoundError) as error:
        raise ValueError(f"{folder}: its head cannot be read: {error}; export it again.") from None
    if values.pop("format_version", None) != FORMAT_VERSION:
        raise ValueError(f"{folder}: its head has another format version than {FORMAT_VERSION}; export it again.")
    known = {field.name for field in fields(HeadConfig)}
    if set(values) != known:
        raise ValueError(
            f"{folder / 'head.json'} must have {', '.join(sorted(known))}; got {', '.join(sorted(values))}."
        )
    head = CtcHead(HeadConfig(**values))
    check_state(state, head.state_dict(), str(folder / "head.safetensors"))
    head.load_state_dict(state)
    return head.eval()

# SPDX-License-Identifier: Apache-2.0
"""What headrace calls a tensor, and what fairseq and transformers call it.

One table a format. ``{i}`` stands for a layer number; a row maps a module (its weight and bias) or a single tensor.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch

State = dict[str, torch.Tensor]

_BLOCK_FAIRSEQ = {
    "mixer": "self_attn",
    "mixer_norm": "self_attn_layer_norm",
    "fc1": "fc1",
    "fc2": "fc2",
    "ffn_norm": "final_layer_norm",
}
_CONFORMER_FAIRSEQ = {"ffn1": "ffn1", "convolution": "conv_module", "ffn2": "ffn2", "norm": "norm"}
_BLOCK_TRANSFORMERS = {
    "mixer": "attention",
    "mixer_norm": "layer_norm",
    "fc1": "feed_forward.intermediate_dense",
    "fc2": "feed_forward.output_dense",
    "ffn_norm": "final_layer_norm",
}

# headrace -> fairseq's Wav2Vec2Model and HubertModel. A per-frame LayerNorm sits one level deeper than a GroupNorm.
FAIRSEQ = {
    "frontend.conv_layers.{i}.conv": "feature_extractor.conv_layers.{i}.0",
    "frontend.conv_layers.{i}.norm[layer_norm]": "feature_extractor.conv_layers.{i}.2.1",
    "frontend.conv_layers.{i}.norm[group_norm]": "feature_extractor.conv_layers.{i}.2",
    "frontend.log_mel": "feature_extractor.log_mel",  # what was measured of the corpus
    "project.norm": "layer_norm",
    "project.linear": "post_extract_proj",
    "context.positions.conv.bias": "encoder.pos_conv.0.bias",
    "context.positions.conv.parametrizations.weight.original0": "encoder.pos_conv.0.weight_g",
    "context.positions.conv.parametrizations.weight.original1": "encoder.pos_conv.0.weight_v",
    "context.norm": "encoder.layer_norm",
    **{
        f"context.layers.{{i}}.{ours}": f"encoder.layers.{{i}}.{theirs}"
        for ours, theirs in (_BLOCK_FAIRSEQ | _CONFORMER_FAIRSEQ).items()
    },
}

# headrace -> transformers' Wav2Vec2Model and HubertModel.
TRANSFORMERS = {
    "frontend.conv_layers.{i}.conv": "feature_extractor.conv_layers.{i}.conv",
    "frontend.conv_layers.{i}.norm[layer_norm]": "feature_extractor.conv_layers.{i}.layer_norm",
    "frontend.conv_layers.{i}.norm[group_norm]": "feature_extractor.conv_layers.{i}.layer_norm",
    "project.norm": "feature_projection.layer_norm",
    "project.linear": "feature_projection.projection",
    "context.positions.conv.bias": "encoder.pos_conv_embed.conv.bias",
    "context.positions.conv.parametrizations.weight.original0": (
        "encoder.pos_conv_embed.conv.parametrizations.weight.original0"
    ),
    "context.positions.conv.parametrizations.weight.original1": (
        "encoder.pos_conv_embed.conv.parametrizations.weight.original1"
    ),
    "context.norm": "encoder.layer_norm",
    **{
        f"context.layers.{{i}}.{ours}": f"encoder.layers.{{i}}.{theirs}" for ours, theirs in _BLOCK_TRANSFORMERS.items()
    },
}


class Names:
    """A table read in both directions, for one kind of norm in the front-end.

    Args:
        table: FAIRSEQ or TRANSFORMERS.
        conv_norm: the configuration's, "layer_norm" or "group_norm".
    """

    def __init__(self, table: Mapping[str, str], conv_norm: str) -> None:
        suffix = f"[{conv_norm}]"
        rows = {a.removesuffix(suffix): b for a, b in table.items() if "[" not in a or a.endswith(suffix)}
        self._outward = list(rows.items())
        self._inward = [(b, a) for a, b in rows.items()]

    def outward(self, name: str) -> str | None:
        """headrace's name -> theirs; None where the table has no row for it."""
        return _rename(name, self._outward)

    def inward(self, name: str) -> str | None:
        """Their name -> headrace's; None where the tensor is not the encoder's (a quantizer, a head)."""
        return _rename(name, self._inward)

    def export_state(self, state: Mapping[str, torch.Tensor]) -> State:
        """headrace's state dict under their names."""
        renamed = {self.outward(name): tensor for name, tensor in state.items()}
        assert None not in renamed, f"no name for {[n for n in state if self.outward(n) is None]}"
        return {str(name): tensor for name, tensor in renamed.items()}

    def import_state(self, state: Mapping[str, torch.Tensor]) -> State:
        """Their state dict under headrace's names, without what is not the encoder's."""
        renamed = {self.inward(name): tensor for name, tensor in state.items()}
        return {name: tensor for name, tensor in renamed.items() if name is not None}


def _rename(name: str, rows: list[tuple[str, str]]) -> str | None:
    for source, target in rows:
        pattern = re.escape(source).replace(r"\{i\}", r"(?P<i>\d+)")
        match = re.match(pattern + r"(?P<rest>$|\..*)", name)
        if match:
            return target.replace("{i}", match.groupdict().get("i") or "") + match["rest"]
    return None


def check_state(found: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor], source: str) -> None:
    """Names and shapes of ``found`` are those of ``expected``.

    Raises:
        ValueError: what is missing, what is left over, which shapes differ.
    """
    problems = [f"missing {name}" for name in expected if name not in found]
    problems += [f"unknown {name}" for name in found if name not in expected]
    problems += [
        f"{name} is {tuple(found[name].shape)}, expected {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in found and found[name].shape != tensor.shape
    ]
    if problems:
        shown = "; ".join(problems[:8]) + (f"; and {len(problems) - 8} more" if len(problems) > 8 else "")
        raise ValueError(f"{source} does not hold the encoder that its configuration describes: {shown}.")

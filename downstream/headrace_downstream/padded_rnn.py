# SPDX-License-Identifier: Apache-2.0
"""s3prl's recurrent layers on CPUs: the same outputs and gradients as its packed sequences, in less time.

s3prl packs the batch (downstream/asr/model.py, RNNLayer). On CPUs torch runs packed sequences step by step, while a
padded batch goes to oneDNN in one piece. Padding on the right does not reach an LSTM that runs forwards; for the
backward direction each item is turned round within its own length first. So the results differ by rounding only.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from headrace_downstream.replace import replaced


def bidirectional_lstm(layer: nn.LSTM, inputs: Tensor, lengths: Tensor) -> Tensor:
    """Run a one-layer LSTM, either direction or both, over right-padded items.

    Args:
        layer: `num_layers=1, batch_first=True`, no projection.
        inputs: [N, T, C].
        lengths: [N] int64 frames per item, 1 .. T, the longest being T.

    Returns:
        [N, T, directions * D], zeros past each length, as pad_packed_sequence gives it.
    """
    num_items, num_frames, _ = inputs.shape
    frame = torch.arange(num_frames)[:, None]  # [T, 1]
    inside = frame < lengths  # [T, N]
    turned = torch.where(inside, lengths - 1 - frame, frame)[..., None]  # [T, N, 1], its own inverse
    inputs = inputs.transpose(0, 1)
    start = inputs.new_zeros(1, num_items, layer.hidden_size)

    def run(frames: Tensor, weights: list[Tensor]) -> Tensor:
        return torch.lstm(frames, (start, start), weights, layer.bias, 1, 0.0, layer.training, False, False)[0]

    outputs = [run(inputs, layer.all_weights[0])]
    if layer.bidirectional:
        backward = run(inputs.gather(0, turned.expand_as(inputs)), layer.all_weights[1])
        outputs.append(backward.gather(0, turned.expand_as(backward)))
    # contiguous: the dropout that follows draws its mask in memory order, and so draws the mask that s3prl's layer
    # would draw
    return (torch.cat(outputs, dim=-1) * inside[..., None]).transpose(0, 1).contiguous()


@contextmanager
def padded_on_cpu() -> Iterator[None]:
    """Within the block, s3prl's ASR head computes LSTMs of CPU tensors by `bidirectional_lstm`; all else stays its
    own.
    """
    rnn_layer = importlib.import_module("s3prl.downstream.asr.model").RNNLayer
    packed_forward = rnn_layer.forward

    def forward(self: nn.Module, input_x: Tensor, x_len: Tensor) -> tuple[Tensor, Tensor]:
        plain = isinstance(self.layer, nn.LSTM) and not self.layer_norm and not self.proj and self.sample_rate == 1
        if input_x.device.type != "cpu" or not plain:
            return packed_forward(self, input_x, x_len)
        lengths = torch.as_tensor(x_len, dtype=torch.int64)
        output = bidirectional_lstm(self.layer, input_x[:, : int(lengths.max())], lengths)
        return (self.dp(output) if self.dropout > 0 else output), lengths

    with replaced(rnn_layer, "forward", forward):
        yield

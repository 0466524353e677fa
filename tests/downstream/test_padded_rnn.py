# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from headrace_downstream.padded_rnn import bidirectional_lstm


def packed(layer, inputs, lengths):
    """What s3prl computes."""
    output, _ = layer(pack_padded_sequence(inputs, lengths, batch_first=True, enforce_sorted=False))
    return pad_packed_sequence(output, batch_first=True)[0]


@pytest.mark.parametrize("bidirectional", [True, False], ids=["both-directions", "forwards-only"])
@settings(max_examples=20)
@given(lengths=st.lists(st.integers(1, 12), min_size=1, max_size=5))
def test_outputs_and_all_gradients_equal_the_packed_ones(bidirectional, lengths):
    torch.manual_seed(len(lengths))
    layer = nn.LSTM(3, 4, bidirectional=bidirectional, batch_first=True)
    lengths = torch.tensor(lengths)
    inputs = torch.randn(len(lengths), int(lengths.max()), 3, requires_grad=True)
    expected, found = packed(layer, inputs, lengths), bidirectional_lstm(layer, inputs, lengths)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    weight = torch.randn_like(expected)
    gradients = [torch.autograd.grad(output, [inputs, *layer.parameters()], weight) for output in (found, expected)]
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_what_stands_in_the_padding_reaches_nothing():
    layer = nn.LSTM(3, 4, bidirectional=True, batch_first=True)
    inputs, lengths = torch.randn(2, 6, 3), torch.tensor([6, 2])
    spoilt = inputs.clone()
    spoilt[1, 2:] = 1e3
    torch.testing.assert_close(
        bidirectional_lstm(layer, spoilt, lengths), bidirectional_lstm(layer, inputs, lengths), rtol=0, atol=0
    )

# SPDX-License-Identifier: Apache-2.0
"""The whole upstream, samples in and hidden states out, waits exactly as long as its reach says.

Two halves make "exactly": a sample after the claim changes nothing at all, and the last sample of the claim does count.
"""

from collections.abc import Callable, Iterable

import pytest
import torch

import encoders
from headrace.reach import Stack
from headrace_upstream.expert import EncoderUpstream

HiddenStates = Callable[[torch.Tensor], list[torch.Tensor]]  # [samples] -> L+1 tensors [T, C]
Claims = list[list[int]]  # claims[layer][frame]: the last sample that this frame of this hidden state may depend on

NUM_FRAMES = 28
ONE_HOP = range(8, 12)  # every place that a frame can have in a hop of 4; from here 12 layers of sa still end inside
STACK = {
    "num_layers": 12,
    "conv_layers": [[8, 10, 5], *[[8, 3, 2]] * 4, *[[8, 2, 2]] * 2],  # wav2vec 2.0's kernels: 400 samples, every 320
    "embed_dim": 8,
    "ffn_dim": 16,
}
MIXERS = {
    "sa": {"mixer": "sa", "look_ahead": 1, "look_back": 4},
    "sa per layer": {"mixer": "sa", "look_ahead": [2, 0, 1] * 4, "look_back": 4},
    "sa causal_conv": {"mixer": "sa", "look_ahead": 1, "look_back": None, "positions": "causal_conv"},
    "llsa hop 1": {"mixer": "llsa", "look_ahead": 3, "look_back": 4},
    "llsa hop 4": {"mixer": "llsa", "look_ahead": 3, "look_back": 4, "hop": 4},
    "llsa hop 4 no look-ahead": {"mixer": "llsa", "look_ahead": 0, "look_back": 4, "hop": 4},
}


def claims(upstream: EncoderUpstream, num_frames: int) -> Claims:
    """What the encoder's reach says, in samples: (frame + look-ahead of the layers below) * stride + window - 1."""
    frontend, reaches = upstream.encoder.frontend, upstream.encoder.config.reaches
    stacks = [Stack(reaches[:layer]) for layer in range(len(reaches) + 1)]
    last_frames = [[stack.last(t) for t in range(num_frames)] for stack in stacks]
    return [[last * frontend.stride_samples + frontend.window_samples - 1 for last in layer] for layer in last_frames]


def frames_that_peek(hidden_states: HiddenStates, waveform: torch.Tensor, claimed: Claims) -> list[tuple[int, int]]:
    """(layer, frame) of every frame that changes, by any amount, when samples after its claim are replaced.

    The waveform keeps its length, so that what the upstream pads with stays as it was.
    """
    before, peeking = hidden_states(waveform), set()
    for last_sample in sorted({sample for layer in claimed for sample in layer if sample < len(waveform) - 1}):
        replaced = torch.cat([waveform[: last_sample + 1], torch.randn_like(waveform[last_sample + 1 :])])
        for layer, (old, new) in enumerate(zip(before, hidden_states(replaced), strict=True)):
            changed = (old != new).any(dim=-1).tolist()
            peeking |= {(layer, t) for t, moved in enumerate(changed) if moved and claimed[layer][t] <= last_sample}
    return sorted(peeking)


def frames_that_fall_short(
    hidden_states: HiddenStates, waveform: torch.Tensor, claimed: Claims, frames: Iterable[int]
) -> list[tuple[int, int]]:
    """(layer, frame), of these frames, whose random projection has no gradient at the last sample of the claim.

    Claims that reach past the end of the waveform say nothing here.
    """
    waveform, short = waveform.clone().requires_grad_(), []
    for layer, states in enumerate(hidden_states(waveform)):
        projections = (states * torch.randn_like(states)).sum(dim=-1)
        for t in frames:
            if (last_sample := claimed[layer][t]) < len(waveform):
                (gradient,) = torch.autograd.grad(projections[t], waveform, retain_graph=True)
                short += [] if gradient[last_sample] != 0 else [(layer, t)]
    return short


def of(upstream: EncoderUpstream) -> HiddenStates:
    return lambda waveform: [states[0] for states in upstream([waveform])["hidden_states"]]


def upstream_of(changes, dtype=torch.float64) -> EncoderUpstream:
    return EncoderUpstream(encoders.small_encoder(dtype, **STACK, **changes))


def waveform(dtype=torch.float64) -> torch.Tensor:
    return torch.randn(NUM_FRAMES * 320, dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["fp32", "fp64"])
@pytest.mark.parametrize("changes", MIXERS.values(), ids=MIXERS)
def test_no_frame_of_any_layer_sees_a_sample_after_its_claim(changes, dtype):
    upstream = upstream_of(changes, dtype)
    with torch.no_grad():
        assert frames_that_peek(of(upstream), waveform(dtype), claims(upstream, NUM_FRAMES)) == []


@pytest.mark.parametrize(
    "frames", [ONE_HOP, pytest.param(range(NUM_FRAMES), marks=pytest.mark.slow)], ids=["a hop's frames", "all frames"]
)
@pytest.mark.parametrize("changes", MIXERS.values(), ids=MIXERS)
def test_a_frame_of_any_layer_sees_the_last_sample_of_its_claim(changes, frames):
    upstream = upstream_of(changes)
    assert frames_that_fall_short(of(upstream), waveform(), claims(upstream, NUM_FRAMES), frames) == []


@pytest.mark.parametrize(
    ("name", "ahead"),
    [
        ("sa", lambda layer, t: layer * 1),
        ("llsa hop 1", lambda layer, t: 3 if layer else 0),
        ("llsa hop 4", lambda layer, t: 3 - t % 4 + 3 if layer else 0),
    ],
    ids=["sa: l * A", "llsa: A", "llsa in hops of 4: the end of the hop, and A"],
)
def test_the_claims_are_the_ones_of_the_paper(name, ahead):
    claimed = claims(upstream_of(MIXERS[name]), NUM_FRAMES)
    assert len(claimed) == 13
    for layer, samples in enumerate(claimed):
        assert samples == [(t + ahead(layer, t)) * 320 + 399 for t in range(NUM_FRAMES)]


@pytest.mark.parametrize("name", ["sa", "llsa hop 1", "llsa hop 4"])
def test_a_claim_that_is_one_sample_early_is_caught(name):
    upstream = upstream_of(MIXERS[name])
    early = [[sample - 1 for sample in layer] for layer in claims(upstream, NUM_FRAMES)]
    with torch.no_grad():
        caught = frames_that_peek(of(upstream), waveform(), early)
    assert {layer for layer, _ in caught} == set(range(13))


@pytest.mark.parametrize("name", ["sa", "llsa hop 1", "llsa hop 4"])
def test_a_claim_that_is_one_sample_late_is_caught(name):
    upstream = upstream_of(MIXERS[name])
    late = [[sample + 1 for sample in layer] for layer in claims(upstream, NUM_FRAMES)]
    caught = frames_that_fall_short(of(upstream), waveform(), late, ONE_HOP)
    assert caught == [(layer, t) for layer in range(13) for t in ONE_HOP]


@pytest.mark.parametrize(
    "changes",
    [{"mixer": "full"}, {"mixer": "masked", "positions": "conv"}, {"mixer": "masked", "conv_norm": "group_norm"}],
    ids=["attention to everything", "centred positions", "norm over time"],
)
def test_an_encoder_that_waits_for_the_whole_utterance_is_caught(changes):
    streaming = claims(upstream_of(MIXERS["sa"]), NUM_FRAMES)
    acausal = upstream_of({"look_ahead": 1, "look_back": 4, **changes})
    with torch.no_grad():
        assert frames_that_peek(of(acausal), waveform(), streaming)

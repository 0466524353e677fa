# SPDX-License-Identifier: Apache-2.0
"""How late are hidden states, proved from samples to every layer: for any function from a waveform to hidden states.

A frame of a layer may depend on samples up to its claim, and on no later one. Both sides are proved: when all samples
behind the claim are replaced, nothing may change, not by one bit; and the gradient of a random projection of the frame
is not zero at the last sample of the claim. Where there is no claim, the gradient says what a frame waits for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from headrace.encoder import SpeechEncoder
from headrace.mixers import MIXERS
from headrace.reach import Stack, block_of

Encode = Callable[[torch.Tensor], Sequence[torch.Tensor]]
"""[1, samples] -> hidden states, [1, T, C] each, the lowest first."""

WHOLE_UTTERANCE = None
MARGIN_SECONDS = 0.6  # of audio behind the longest wait, so that there are frames on both sides of it


@dataclass(frozen=True)
class Grid:
    """How frames lie over samples: frame t starts at sample t * stride_samples."""

    stride_samples: int
    window_samples: int
    sample_rate: int

    @classmethod
    def of(cls, encoder: SpeechEncoder) -> Grid:
        """An encoder's."""
        frontend = encoder.frontend
        return cls(frontend.stride_samples, frontend.window_samples, encoder.config.sample_rate)

    def milliseconds(self, num_samples: float) -> float:
        """How long so many samples last."""
        return 1000 * num_samples / self.sample_rate

    def wait_ms(self, t: int, last_sample: int) -> float:
        """From the start of frame t to the end of the last sample that it depends on."""
        return self.milliseconds(last_sample + 1 - t * self.stride_samples)


@dataclass(frozen=True)
class Claim:
    """What an encoder says of itself, computed from its reach and its front-end, never typed."""

    grid: Grid
    stacks: tuple[Stack, ...]  # of each hidden state, the input of layer 1 first
    positions_ahead: int  # frames that a centred positional convolution looks ahead
    is_whole: bool  # whether the front-end looks at the whole utterance
    is_tight: bool  # whether frames depend on the last sample of the claim, and not perhaps on fewer

    @classmethod
    def of(cls, encoder: SpeechEncoder) -> Claim:
        """An encoder's."""
        config = encoder.config
        stacks = tuple(config.stack_under(config.reaches[:depth]) for depth in range(config.num_layers + 1))
        ahead = (config.position_kernel - 1) // 2 if config.positions == "conv" else 0
        is_tight = MIXERS[config.mixer].is_tight
        return cls(Grid.of(encoder), stacks, ahead, config.conv_norm == "group_norm", is_tight)

    def last_sample(self, layer: int, t: int) -> int | None:
        """The last sample that frame t of a hidden state may depend on; None is the end of the utterance."""
        last = self.stacks[layer].last(t)
        if last is None or self.is_whole:
            return WHOLE_UTTERANCE
        return (last + self.positions_ahead) * self.grid.stride_samples + self.grid.window_samples - 1

    def wait_ms(self, layer: int) -> float | None:
        """The longest wait of any frame of a hidden state; None where it waits for the whole utterance."""
        waits = self._waits_ms(layer)
        return WHOLE_UTTERANCE if waits is None else max(waits)

    def mean_wait_ms(self, layer: int) -> float | None:
        """The mean over all frames: those at the end of a block wait for less than those at its start."""
        waits = self._waits_ms(layer)
        return WHOLE_UTTERANCE if waits is None else sum(waits) / len(waits)

    def _waits_ms(self, layer: int) -> list[float] | None:
        """Of each frame of a block; None where one waits for the whole utterance."""
        lasts = [self.last_sample(layer, t) for t in range(block_of(self.stacks[layer]))]
        waits = [self.grid.wait_ms(t, last) for t, last in enumerate(lasts) if last is not None]
        return waits if len(waits) == len(lasts) else None


@dataclass(frozen=True)
class LayerProof:
    """What was found of one hidden state.

    claimed_ms, observed_ms: the longest wait of the frames that were tried; None is the whole utterance.
    frames: how many frames' gradients were looked at.
    changes: frames that changed when only samples behind their claim did; what they changed by at most.
    holds: no frame changed, and each depends on the very last sample of its claim and on none behind it; a mixer whose
        frames choose where they look (deformable) may depend on less.
    """

    layer: int
    claimed_ms: float | None
    observed_ms: float | None
    frames: int
    changes: int
    largest_change: float
    holds: bool


def prove(
    encode: Encode,
    claim: Claim,
    num_samples: int,
    num_places: int = 12,
    num_frames: int = 5,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
) -> list[LayerProof]:
    """Hold an encoder against its claim, on noise of ``num_samples`` samples.

    Args:
        num_places: samples from which on everything is replaced, half of them right behind a frame's claim.
        num_frames: frames of each hidden state whose gradient is taken.
    """
    generator = torch.Generator().manual_seed(seed)
    waveform = _noise(num_samples, generator, dtype)
    truth = [state.clone() for state in _states(encode, waveform)]
    length = len(truth[0])
    chosen = sorted({int(t) for t in torch.linspace(0, length - 1, num_frames)})
    tight = [claim.last_sample(len(truth) - 1, t) for t in chosen]
    places = [last + 1 for last in tight if last is not None and last + 1 < num_samples]
    drawn = torch.randint(1, num_samples, (max(0, num_places - len(places)),), generator=generator).tolist()
    changes = [_Changes() for _ in truth]
    for place in sorted({*places, *drawn}):
        for layer, state in enumerate(_states(encode, _replaced(waveform, place, generator))):
            early = [t for t in range(length) if _before(claim.last_sample(layer, t), place)]
            changes[layer].add(truth[layer][early], state[early])
    observed = observe(encode, waveform, chosen, generator)
    return [
        _layer_proof(claim, layer, chosen, observed[layer], changes[layer], num_samples) for layer in range(len(truth))
    ]


def observe(
    encode: Encode, waveform: torch.Tensor, frames: Sequence[int], generator: torch.Generator
) -> list[list[int]]:
    """For each hidden state and each of the frames, the last sample with a non-zero gradient; -1 where none has any.

    One direction of a frame may happen to be flat (a LayerNorm's sum is): random ones are not.
    """
    waveform = waveform.detach().requires_grad_()
    states = encode(waveform)
    found = []
    for state in states:
        direction = torch.randn(state.shape[-1], generator=generator, dtype=torch.float64).to(state)
        gradients = (torch.autograd.grad(state[0, t] @ direction, waveform, retain_graph=True)[0] for t in frames)
        found.append([_last_nonzero(gradient) for gradient in gradients])
    return found


def observe_waits(
    encode: Encode,
    grid: Grid,
    num_samples: int,
    num_places: int = 16,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> list[float | None]:
    """For each hidden state of an encoder that claims nothing: the longest wait that was seen, in ms.

    Everything from a sample on is replaced, at several places, and the earliest frame that changes has waited for that
    sample or a later one; so the true wait is this or longer, by less than a quarter of a stride where it is bounded.
    None: frames of the first half change with the last quarter of the utterance, which is to say that the encoder waits
    for all of it, or for longer than half of what was tried.
    """
    generator = torch.Generator().manual_seed(seed)
    waveform = _noise(num_samples, generator, dtype)
    truth = [state.clone() for state in _states(encode, waveform)]
    waits: list[float | None] = [0.0] * len(truth)
    for index in range(num_places):
        # a quarter of a stride further each time: whatever the window is, some place lies right before its end
        place = num_samples * (index + 1) // (num_places + 1) // grid.stride_samples * grid.stride_samples
        place += (index % 4 + 1) * grid.stride_samples // 4
        states = _states(encode, _replaced(waveform, place, generator))
        for layer, (state, before) in enumerate(zip(states, truth, strict=True)):
            changed = (state != before).any(-1).nonzero()
            wait = waits[layer]
            if not len(changed) or wait is None:
                continue
            first = int(changed[0])
            if place > num_samples * 3 // 4 and first * grid.stride_samples < num_samples // 2:
                waits[layer] = WHOLE_UTTERANCE
            else:
                waits[layer] = max(wait, grid.wait_ms(first, place))
    return waits


def proof_samples(claim: Claim) -> int:
    """Samples that end with a frame's window, and hold frames on both sides of the longest wait."""
    grid, wait = claim.grid, claim.wait_ms(len(claim.stacks) - 1)
    seconds = (wait or 1000.0) / 1000 + MARGIN_SECONDS
    frames = int(seconds * grid.sample_rate / grid.stride_samples)
    return frames * grid.stride_samples + grid.window_samples


def _noise(num_samples: int, generator: torch.Generator, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(1, num_samples, generator=generator, dtype=torch.float64).to(dtype)


def _replaced(waveform: torch.Tensor, place: int, generator: torch.Generator) -> torch.Tensor:
    """Other samples from ``place`` on."""
    return torch.cat([waveform[:, :place], _noise(waveform.shape[1] - place, generator, waveform.dtype)], 1)


def _states(encode: Encode, waveform: torch.Tensor) -> list[torch.Tensor]:
    """Hidden states [T, C]."""
    with torch.no_grad():
        return [state[0] for state in encode(waveform)]


def _last_nonzero(gradient: torch.Tensor) -> int:
    places = gradient[0].nonzero()
    return int(places[-1]) if len(places) else -1


def _before(last: int | None, place: int) -> bool:
    return last is not None and last < place


class _Changes:
    def __init__(self) -> None:
        self.frames, self.largest = 0, 0.0

    def add(self, truth: torch.Tensor, state: torch.Tensor) -> None:
        difference = (state - truth).abs().flatten(1).amax(1) if len(truth) else truth.new_zeros(0)
        difference = difference.nan_to_num(float("inf"))
        self.frames += int((difference != 0).sum())
        self.largest = max(self.largest, float(difference.max()) if len(difference) else 0.0)


def _layer_proof(
    claim: Claim, layer: int, frames: Sequence[int], observed: Sequence[int], changes: _Changes, num_samples: int
) -> LayerProof:
    claimed = [claim.last_sample(layer, t) for t in frames]
    ends = [num_samples - 1 if last is None else min(last, num_samples - 1) for last in claimed]
    is_within = all(found <= end for found, end in zip(observed, ends, strict=True))
    # a frame whose claim lies behind the utterance waits for less than it might
    waits = [
        claim.grid.wait_ms(t, found)
        for t, found, last in zip(frames, observed, claimed, strict=True)
        if _before(last, num_samples)
    ]
    return LayerProof(
        layer=layer,
        claimed_ms=claim.wait_ms(layer),
        observed_ms=max(waits, default=WHOLE_UTTERANCE),
        frames=len(frames),
        changes=changes.frames,
        largest_change=changes.largest,
        holds=changes.frames == 0 and is_within and (not claim.is_tight or list(observed) == ends),
    )

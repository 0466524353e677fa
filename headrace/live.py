# SPDX-License-Identifier: Apache-2.0
"""Running an encoder live: ``tick`` for servers, ``step`` and ``finish`` for people.

    encoder = headrace.load("exp/llsa-base")
    state = encoder.init_state(batch_size=1)
    out, state = encoder.step(samples, state)  # any number of samples, also 0
    out, state = encoder.finish(state)  # the tail

The frames of all steps and of finish, one after the other, are those of ``encoder(waveforms)`` on the whole utterance.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence

from headrace.config import EncoderConfig, acausal_parts
from headrace.frontend import Frontend
from headrace.mixers import MIXERS
from headrace.mixers.chunks import ChunkMixer
from headrace.reach import Band, Blocks, Everything, Reach
from headrace.streaming import NO_END, Entries, Entry, Live, Span, StreamState, slot_numbers, within

HIDDEN_STATES = ("last", "all")


@dataclass(frozen=True)
class StepOutput:
    """Frames that a step gave.

    hidden_states: the last layer's [N, T, C] alone, or L+1 of them, all of the same frames; see ``init_state``.
    last_hidden_state: [N, T, C], the last of them, behind the final LayerNorm where the blocks are norm_first.
    lengths: [N] int64, frames that came of each stream; later ones are zero.
    first_frame: [N] int64, the number of the first of them in its stream.
    """

    hidden_states: list[torch.Tensor]
    last_hidden_state: torch.Tensor
    lengths: torch.Tensor
    first_frame: torch.Tensor


@dataclass(frozen=True)
class Clock:
    """How samples are cut into ticks: the newest sample of each is the last that its newest block or frame needs.

    hop: frames of a tick.
    tick_samples: samples of a tick.
    first_frame: the number of the first tick's first frame; below 0 where it starts with frames before the utterance.
    lead_samples: how many zeros stand before the first sample.
    """

    hop: int
    tick_samples: int
    first_frame: int
    lead_samples: int

    @classmethod
    def of(cls, frontend: Frontend, reach: Reach, hop: int) -> Clock:
        """Of a front-end under the reach of the first layer."""
        stride, overlap = frontend.stride_samples, frontend.window_samples - frontend.stride_samples
        first = -overlap // stride  # the newest frame with whose window's end a tick may end
        if isinstance(reach, Blocks):
            first -= (first - reach.look_ahead) % hop
        return cls(hop, hop * stride, first, -(first * stride + overlap))


class LiveEncoder(nn.Module):
    """What a SpeechEncoder can do live."""

    config: EncoderConfig
    frontend: Frontend
    project: nn.Module
    _known_fingerprint: tuple[object, str] | None = None
    context: Any  # ContextEncoder, which stands above this file

    def init_state(
        self,
        batch_size: int = 1,
        hop: int | None = None,
        hidden_states: str = "last",
        reach: Reach | Sequence[Reach] | None = None,
    ) -> StreamState:
        """Room for ``batch_size`` streams, all at their start.

        Args:
            batch_size: slots; ``reset`` starts one of them again, so that streams come and go on their own.
            hop: frames that a tick takes and gives: more of them cost less each and wait longer. Blocks (llsa) and
                chunks have their own, that of the reach; for sa and masked it is free, and 1 when None.
            hidden_states: "last" or "all" L+1.
            reach: who sees whom in these streams; the configuration's when None. An encoder that was trained under
                many runs under any of them.

        Raises:
            ValueError: the encoder cannot run live, and what to choose instead; or an argument, what came, what was
                expected.
        """
        reaches = self._live_reaches(reach)
        if hidden_states not in HIDDEN_STATES:
            raise ValueError(f"hidden_states must be one of {', '.join(HIDDEN_STATES)}, got {hidden_states!r}.")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}.")
        own = reaches[0].hop if isinstance(reaches[0], Blocks) else None
        if hop is not None and (hop < 1 or own not in (None, hop)):
            wanted = (
                "at least 1" if own is None else f"{own}, that of the reach; reach=Blocks(..., hop={hop}) has another"
            )
            raise ValueError(f"hop must be {wanted}; got {hop}.")
        clock = Clock.of(self.frontend, reaches[0], own or hop or 1)
        like = next(self.parameters())
        entries = self._entries(reaches, clock, hidden_states)
        return StreamState.start(entries, batch_size, like, self._fingerprint(), clock.hop, hidden_states, reaches)

    @torch.no_grad()
    def tick(
        self, samples: torch.Tensor, state: StreamState, slots: torch.Tensor | None = None
    ) -> tuple[list[torch.Tensor], torch.Tensor]:
        """One tick of some streams, with fixed shapes: what servers, CUDA graphs and ``step`` run.

        Args:
            samples: [S, hop * stride_samples]. A stream starts with ``clock(state).lead_samples`` zeros.
            state: changed in place.
            slots: [S] int64, each at most once; all in order when None.

        Returns:
            hidden states [S, hop, C], the last or all, and which frames of them exist, [S, hop] bool.
        """
        is_whole = slots is None
        if slots is None:
            slots = torch.arange(state.num_slots, device=samples.device)
        live = Live(state.tensors, slots, is_whole)
        span = Span(live.take("next_frame"), live.take("length"))
        x = self.project(self.frontend.tick(samples, live.within("frontend")))
        wants_all = state.hidden_states == "all"
        hidden_states = self.context.tick(x, span, state.reaches, live.within("context"), wants_all)
        exists = ~Span(span.first - _delay(state.reaches), span.lengths).missing(state.hop)
        live.put("next_frame", span.first + state.hop)  # last: of all slots, span.first is the state's own tensor
        return hidden_states, exists

    def step(
        self,
        samples: torch.Tensor,
        state: StreamState,
        num_samples: torch.Tensor | None = None,
        slots: Sequence[int] | torch.Tensor | None = None,
    ) -> tuple[StepOutput, StreamState]:
        """Take the next samples of some streams and give the frames that they complete.

        Args:
            samples: [N, any number] float at ``config.sample_rate``; one row a slot.
            state: changed in place, and returned.
            num_samples: [N] int64, how many of each row count; all when None.
            slots: N different numbers; all in order when None.

        Raises:
            ValueError: naming the argument, what came and what was expected; no stream has moved then.
        """
        self._check_state(state)
        numbers = slot_numbers(slots, state.num_slots)
        counts = self._check_samples(samples, num_samples, state, numbers)
        where = torch.tensor(numbers, device=samples.device)
        state.tensors["num_samples"][where] += torch.tensor(counts, device=samples.device)
        return self._feed(samples, counts, state, numbers), state

    def finish(
        self, state: StreamState, slots: Sequence[int] | torch.Tensor | None = None
    ) -> tuple[StepOutput, StreamState]:
        """End some streams and give their last frames; ``reset`` starts their slots anew.

        Raises:
            ValueError: a stream was finished before.
        """
        self._check_state(state)
        numbers = slot_numbers(slots, state.num_slots)
        self._check_running(state, numbers)
        clock = self.clock(state)
        tensors = state.tensors
        where = torch.tensor(numbers, device=tensors["length"].device)
        lengths = self.frontend.num_frames(tensors["num_samples"][where])
        tensors["length"][where] = lengths
        next_given = tensors["next_frame"][where] - _delay(state.reaches)
        given = next_given.clamp(min=0)
        ticks = -(-(lengths - next_given) // clock.hop)
        ticks = ticks.masked_fill(lengths <= given, 0)
        counts = (ticks * clock.tick_samples - tensors["num_pending"][where]).clamp(min=0).tolist()
        zeros = tensors["pending"].new_zeros(len(numbers), max(counts, default=0))
        return self._feed(zeros, counts, state, numbers), state

    def reset(self, state: StreamState, slots: Sequence[int] | torch.Tensor | None = None) -> StreamState:
        """Start new streams in some slots, whatever they hold."""
        self._check_state(state)
        numbers = slot_numbers(slots, state.num_slots)
        state.restart(torch.tensor(numbers, device=state.tensors["length"].device))
        return state

    def clock(self, state: StreamState) -> Clock:
        """How samples are cut into the ticks of a state."""
        return Clock.of(self.frontend, state.reaches[0], state.hop)

    # ---- what it keeps ----

    def _entries(self, reaches: tuple[Reach, ...], clock: Clock, hidden_states: str) -> Entries:
        count = torch.int64
        return {
            "pending": Entry((clock.tick_samples,)),
            "num_pending": Entry((), clock.lead_samples, count),
            "num_samples": Entry((), 0, count),
            "next_frame": Entry((), clock.first_frame, count),
            "length": Entry((), NO_END, count),
            **within("frontend", self.frontend.entries()),
            **within("context", self.context.entries(reaches, clock.hop, clock.first_frame, hidden_states == "all")),
        }

    def _fingerprint(self) -> str:
        """Of the configuration and of a few weights: a state goes with the encoder that made it."""
        few = [next(self.frontend.parameters()), next(self.context.parameters())]
        version = tuple((x.data_ptr(), x._version) for x in few)
        if self._known_fingerprint is None or self._known_fingerprint[0] != version:
            weights = b"".join(x.detach().float().cpu().numpy().tobytes() for x in few)
            config = json.dumps(self.config.to_dict(), sort_keys=True).encode()
            self._known_fingerprint = version, hashlib.sha256(config + weights).hexdigest()
        return self._known_fingerprint[1]

    # ---- feeding ----

    def _feed(self, samples: torch.Tensor, counts: list[int], state: StreamState, numbers: list[int]) -> StepOutput:
        """Ticks for what is pending and the first ``counts`` of samples [N, ...]; the rest is pending."""
        clock, tensors, device = self.clock(state), state.tensors, samples.device
        where = torch.tensor(numbers, device=device)
        pending = tensors["num_pending"][where].tolist()
        first = (tensors["next_frame"][where] - _delay(state.reaches)).tolist()
        lengths = tensors["length"][where].tolist()
        totals = [before + count for before, count in zip(pending, counts, strict=True)]
        ticks = [total // clock.tick_samples for total in totals]

        buffer = samples.new_zeros(len(numbers), max(totals, default=0) + clock.tick_samples)
        for i, (slot, before, count) in enumerate(zip(numbers, pending, counts, strict=True)):
            buffer[i, :before] = tensors["pending"][slot, :before]
            buffer[i, before : before + count] = samples[i, :count]
        pieces: list[list[list[torch.Tensor]]] = [[] for _ in numbers]
        for tick in range(max(ticks, default=0)):
            active = [i for i in range(len(numbers)) if ticks[i] > tick]
            rows = buffer[active, tick * clock.tick_samples : (tick + 1) * clock.tick_samples]
            is_whole = [numbers[i] for i in active] == list(range(state.num_slots))
            hidden_states, _ = self.tick(rows, state, None if is_whole else where[active])
            for row, i in enumerate(active):
                begin = first[i] + tick * clock.hop
                low, high = max(0, -begin), min(clock.hop, lengths[i] - begin)
                if low < high:
                    pieces[i].append([x[row, low:high] for x in hidden_states])
        for i, (slot, total) in enumerate(zip(numbers, totals, strict=True)):
            used = ticks[i] * clock.tick_samples
            tensors["pending"][slot, : total - used] = buffer[i, used:total]
        tensors["num_pending"][where] = torch.tensor(
            [total % clock.tick_samples for total in totals], device=device, dtype=torch.int64
        )
        return self._output(pieces, [max(0, f) for f in first], state, device)

    def _output(
        self, pieces: list[list[list[torch.Tensor]]], first: list[int], state: StreamState, device: torch.device
    ) -> StepOutput:
        width = self.config.num_layers + 1 if state.hidden_states == "all" else 1
        nothing = state.tensors["pending"].new_zeros(0, self.config.embed_dim)
        hidden_states = [
            pad_sequence([torch.cat([nothing, *(piece[layer] for piece in each)]) for each in pieces], batch_first=True)
            for layer in range(width)
        ]
        lengths = torch.tensor([sum(len(piece[0]) for piece in each) for each in pieces], device=device)
        last = self.context.output(hidden_states, lengths)
        return StepOutput(hidden_states, last, lengths, torch.tensor(first, device=device))

    # ---- checks ----

    def _live_reaches(self, reach: Reach | Sequence[Reach] | None) -> tuple[Reach, ...]:
        """The reach of each layer, where all can run live.

        Raises:
            ValueError: saying which part waits for the whole utterance, and what to choose instead.
        """
        reaches, mixer = self.context.reaches_of(reach), MIXERS[self.config.mixer]
        for layer, each in zip(self.context.layers, reaches, strict=True):
            layer.mixer.check_reach(each)
        if any(isinstance(each, Everything) for each in reaches):
            chosen = f"mixer={self.config.mixer!r}" if reach is None else f"reach={reach}"
            why = "sees the whole utterance" if mixer.sees_others else "has no chunks"
            raise ValueError(f"{chosen} {why} and cannot run live; {_other_reach(self.config)}.")
        if parts := acausal_parts(self.config):
            raise ValueError(
                f"{', '.join(parts)} sees the whole utterance and cannot run live; choose positions='rotary' or "
                "'causal_conv', conv_norm='layer_norm', normalize_waveform=False and train again."
            )
        is_endless = any(each.look_back is None for each in reaches if not isinstance(each, Everything))
        if is_endless and not mixer.remembers_everything:
            raise ValueError(
                "look_back=None would remember the whole past, which has no end when live; choose a number of frames: "
                "headrace export --look-back 60."
            )
        if self.training:
            raise ValueError(
                "an encoder in training mode drops and skips at random; call encoder.eval() to run it live."
            )
        return reaches

    def _check_state(self, state: StreamState) -> None:
        if state.made_by != self._fingerprint():
            raise ValueError("state belongs to another encoder; make one with this encoder's init_state.")

    def _check_running(self, state: StreamState, numbers: list[int]) -> None:
        lengths = state.tensors["length"].tolist()
        if ended := [slot for slot in numbers if lengths[slot] != NO_END]:
            raise ValueError(
                f"the stream in slot {ended[0]} has been finished; reset(state, slots=[{ended[0]}]) starts a new one."
            )

    def _check_samples(
        self, samples: torch.Tensor, num_samples: torch.Tensor | None, state: StreamState, numbers: list[int]
    ) -> list[int]:
        like = state.tensors["pending"]
        if samples.dim() != 2 or samples.shape[0] != len(numbers):
            raise ValueError(
                f"samples must be [{len(numbers)}, samples], one row a slot, got shape {tuple(samples.shape)}."
            )
        if samples.dtype != like.dtype or samples.device != like.device:
            raise ValueError(
                f"samples must be {like.dtype} on {like.device} like the encoder, got {samples.dtype} on "
                f"{samples.device}; divide 16-bit samples by 32768."
            )
        counts = [samples.shape[1]] * len(numbers)
        if num_samples is not None:
            if num_samples.shape != samples.shape[:1] or num_samples.dtype != torch.int64:
                raise ValueError(
                    f"num_samples must be [{len(numbers)}] int64, got {tuple(num_samples.shape)} {num_samples.dtype}."
                )
            counts = num_samples.tolist()
            if any(not 0 <= count <= samples.shape[1] for count in counts):
                raise ValueError(f"num_samples must lie in 0 .. {samples.shape[1]}, got {counts}.")
        self._check_running(state, numbers)
        past = (
            torch.arange(samples.shape[1], device=samples.device)
            >= torch.tensor(counts, device=samples.device)[:, None]
        )
        broken = ~samples.masked_fill(past, 0).isfinite().all(1)
        if bool(broken.any()):
            slot = numbers[int(broken.nonzero()[0])]
            raise ValueError(
                f"samples of the stream in slot {slot} hold NaN or infinity; nothing was taken, of no stream: repair "
                "or leave out these samples and call again."
            )
        return counts


def _delay(reaches: Sequence[Reach]) -> int:
    """Frames by which those that come out of a tick lie behind those that go in."""
    if isinstance(reaches[0], Blocks):
        return reaches[0].look_ahead
    return sum(reach.look_ahead for reach in reaches if isinstance(reach, Band))


def _other_reach(config: EncoderConfig) -> str:
    if issubclass(MIXERS[config.mixer], ChunkMixer):
        return "choose a reach in chunks, Blocks(0, look_back, hop, per_block=True)"
    if config.block == "conformer":
        return "a conformer runs live with mixer='chunked', 'summary', 'deformable' or 'none'; train one of them"
    return "the same weights run live as 'llsa', 'sa' or 'masked': headrace export --mixer llsa"

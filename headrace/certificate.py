# SPDX-License-Identifier: Apache-2.0
"""The certificate of an encoder: how late it says it is, whether that is so, and how fast it runs here.

Claimed: computed from the reach and the front-end. Proved: ``headrace.latency``, through the whole encoder and through
encoders of other depths. Measured: live against the whole utterance, and the time of a step.
"""

from __future__ import annotations

import copy
import dataclasses
import os
import platform
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from headrace.config import EncoderConfig
from headrace.encoder import SpeechEncoder
from headrace.int8 import to_int8
from headrace.latency import Claim, Grid, LayerProof, proof_samples, prove
from headrace.mixers import MIXERS
from headrace.ops import native
from headrace.reach import Blocks, look_ahead

DEPTHS = (2, 4, 8, 12)
LIVE_TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5}
INT8_TOLERANCE = 0.1  # a difference in the last bit of fp32 may become one in the last of 8
FEW_ROUNDINGS = 4.0
PERCENTILES = (50, 95, 99)


@dataclass(frozen=True)
class Part:
    """What one part of an encoder makes a frame wait for, at most."""

    name: str
    milliseconds: float | None  # None: the whole utterance


@dataclass(frozen=True)
class Depth:
    """The same kind of encoder with another number of layers: the last hidden state's wait."""

    num_layers: int
    claimed_ms: float | None
    observed_ms: float | None
    holds: bool


@dataclass(frozen=True)
class LiveCheck:
    """Live against the whole utterance, all hidden states: the largest difference, relative to the largest value.

    rounding: what the whole utterance in a dtype differs by from that in float64. Where frames choose where they look
    (deformable), a last bit moves a place, and live is held to a few times that where it is more than the limit.
    """

    difference: dict[str, float]  # by dtype
    rounding: dict[str, float]
    holds: bool


@dataclass(frozen=True)
class Speed:
    """Of steps of one hop, one stream."""

    threads: int
    step_ms: dict[str, float]  # p50, p95, p99
    audio_ms: float  # of a step
    real_time_factor: float  # time spent for each unit of audio


@dataclass(frozen=True)
class Certificate:
    """See ``certify``."""

    encoder: dict[str, Any]
    machine: dict[str, Any]
    grid: Grid
    parts: list[Part]
    mean_ms: float | None  # of the last hidden state, over all frames; None: the whole utterance
    layers: list[LayerProof]
    depths: list[Depth]
    live: LiveCheck | None
    cannot_run_live: str | None
    int8_difference: float | None  # of the last hidden state with 8-bit weights, relative to fp32's norm; None: fp32
    speeds: list[Speed]

    @property
    def holds(self) -> bool:
        """Whether every claim does."""
        live = self.live is None or self.live.holds
        return live and all(proof.holds for proof in [*self.layers, *self.depths])

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {**dataclasses.asdict(self), "holds": self.holds}


def certify(encoder: SpeechEncoder, timed_seconds: float = 10.0, int8: bool = False, seed: int = 0) -> Certificate:
    """Certify an encoder. It is left as it is.

    Args:
        timed_seconds: of audio, stepped through once for each number of threads; 0 leaves speed out.
        int8: run live and measure with 8-bit weights.

    Raises:
        ValueError: an encoder in training mode.
    """
    if encoder.training:
        raise ValueError("an encoder in training mode drops and skips at random; call encoder.eval() first.")
    config = encoder.config
    exact = copy.deepcopy(encoder).double()
    claim = Claim.of(exact)
    cannot = _why_not_live(encoder)
    runs = encoder if not int8 else to_int8(copy.deepcopy(encoder))
    return Certificate(
        encoder=config.to_dict(),
        machine=_machine(),
        grid=claim.grid,
        parts=parts_of(config, claim),
        mean_ms=claim.mean_wait_ms(config.num_layers),
        layers=prove(_states_of(exact), claim, proof_samples(claim), seed=seed),
        depths=[_prove_depth(config, num_layers, seed) for num_layers in DEPTHS],
        live=_live_against_whole([runs] if int8 else [exact, runs], int8, seed) if cannot is None else None,
        cannot_run_live=cannot,
        int8_difference=_int8_difference(encoder, runs, seed) if int8 else None,
        speeds=_speeds(runs, timed_seconds, seed) if cannot is None and timed_seconds else [],
    )


def parts_of(config: EncoderConfig, claim: Claim) -> list[Part]:
    """The sum of them is the wait of the last hidden state."""
    ahead, reach, grid = look_ahead(config.stack), config.reaches[0], claim.grid
    hop = min(ahead or 0, reach.hop - 1) if isinstance(reach, Blocks) else 0
    frame_ms = grid.milliseconds(grid.stride_samples)
    return [
        Part("mean and variance of the waveform", None if config.normalize_waveform else 0.0),
        Part("window of a frame", None if claim.is_whole else grid.milliseconds(grid.window_samples)),
        Part("positions", claim.positions_ahead * frame_ms),
        Part("layers' look-ahead", None if ahead is None else (ahead - hop) * frame_ms),
        Part("rest of the block (hop)", hop * frame_ms),
    ]


def _why_not_live(encoder: SpeechEncoder) -> str | None:
    try:
        encoder.init_state()
    except ValueError as error:
        return str(error)
    return None


def _states_of(encoder: SpeechEncoder) -> Any:
    return lambda waveform: encoder(waveform).hidden_states


def _prove_depth(config: EncoderConfig, num_layers: int, seed: int) -> Depth:
    """A narrow encoder with this one's reach, positions, norms and windows: depth is about who sees whom."""
    ahead = config.look_ahead
    if isinstance(ahead, list):
        ahead = [ahead[i % len(ahead)] for i in range(num_layers)]
    narrow = dataclasses.replace(
        config, num_layers=num_layers, look_ahead=ahead, embed_dim=16, ffn_dim=16, num_heads=1, position_groups=1,
        conv_layers=[[8, kernel, stride] for _, kernel, stride in config.conv_layers],
        num_mels=min(16, config.num_mels), mel_channels=[4] * len(config.mel_channels),
        attention_dropout=0.0, layerdrop=0.0,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        encoder = SpeechEncoder(narrow).double().eval()
    claim = Claim.of(encoder)
    last = prove(_states_of(encoder), claim, proof_samples(claim), num_places=6, num_frames=3, seed=seed)[-1]
    return Depth(num_layers, last.claimed_ms, last.observed_ms, last.holds)


def _noise(encoder: SpeechEncoder, seconds: int, generator: torch.Generator) -> torch.Tensor:
    return torch.randn(1, encoder.config.sample_rate * seconds, generator=generator, dtype=torch.float64)


def _int8_difference(encoder: SpeechEncoder, int8: SpeechEncoder, seed: int) -> float:
    waveform = _noise(encoder, 3, torch.Generator().manual_seed(seed)).float()
    with torch.no_grad():
        exact, rounded = (each(waveform).last_hidden_state for each in (encoder, int8))
    return float((rounded - exact).norm() / exact.norm())


def _live_against_whole(encoders: list[SpeechEncoder], int8: bool, seed: int) -> LiveCheck:
    generator = torch.Generator().manual_seed(seed)
    waveform = _noise(encoders[0], 3, generator)
    cuts = sorted(torch.randint(0, waveform.shape[1], (6,), generator=generator).tolist())
    difference, rounding, truth = {}, {}, None
    for each in encoders:
        dtype = next(each.parameters()).dtype
        state = each.init_state(hidden_states="all")
        outs, samples = [], waveform.to(dtype)
        for begin, end in zip([0, *cuts], [*cuts, samples.shape[1]], strict=True):
            outs.append(each.step(samples[:, begin:end], state)[0])
        outs.append(each.finish(state)[0])
        with torch.no_grad():
            whole = each(samples).hidden_states
        truth = whole if dtype == torch.float64 else truth
        live = [torch.cat(parts, 1) for parts in zip(*(out.hidden_states for out in outs), strict=True)]
        difference[str(dtype)] = max(_difference(a, b) for a, b in zip(live, whole, strict=True))
        if truth is not None:
            rounding[str(dtype)] = max(_difference(a.double(), b) for a, b in zip(whole, truth, strict=True))
    limits = {str(dtype): INT8_TOLERANCE if int8 else limit for dtype, limit in LIVE_TOLERANCE.items()}
    if not MIXERS[encoders[0].config.mixer].is_tight:
        limits = {dtype: max(limit, FEW_ROUNDINGS * rounding.get(dtype, 0.0)) for dtype, limit in limits.items()}
    holds = all(found <= limits.get(dtype, 1e-2) for dtype, found in difference.items())
    return LiveCheck(difference, rounding, holds)


def _difference(live: torch.Tensor, whole: torch.Tensor) -> float:
    if live.shape != whole.shape:
        return float("inf")
    return float((live - whole).abs().max() / whole.abs().max())


def _speeds(encoder: SpeechEncoder, seconds: float, seed: int) -> list[Speed]:
    before = torch.get_num_threads()
    try:
        return [_speed(encoder, seconds, threads, seed) for threads in sorted({1, before})]
    finally:
        torch.set_num_threads(before)


def _speed(encoder: SpeechEncoder, seconds: float, threads: int, seed: int) -> Speed:
    torch.set_num_threads(threads)
    state = encoder.init_state()
    clock = encoder.clock(state)
    like = next(encoder.parameters())
    generator = torch.Generator().manual_seed(seed)
    samples = torch.randn(1, clock.tick_samples, generator=generator).to(like)
    audio_ms = 1000 * clock.tick_samples / encoder.config.sample_rate
    times = []
    for tick in range(max(20, int(1000 * seconds / audio_ms)) + 5):
        start = time.perf_counter()
        encoder.step(samples, state)
        if tick >= 5:
            times.append(1000 * (time.perf_counter() - start))
    cuts = statistics.quantiles(times, n=100, method="inclusive")
    step_ms = {f"p{percent}": cuts[percent - 1] for percent in PERCENTILES}
    return Speed(threads, step_ms, audio_ms, sum(times) / len(times) / audio_ms)


def _machine() -> dict[str, Any]:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return {
        "cpu": next(names, platform.processor() or platform.machine()),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "kernels": native.STATUS.cpu_instruction_set if native.STATUS.is_loaded else None,
    }

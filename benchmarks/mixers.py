# SPDX-License-Identifier: Apache-2.0
"""Does a streaming encoder need attention? Conformers of 12 layers of 512 that differ in the mixer alone.

    python benchmarks/mixers.py                     # the tables; benchmarks/results/mixers_cpu.json

whole: 30 s in chunks of 640 ms without left context (arXiv 2601.19960), blocks alone, one thread; beside them the
paper's baseline, all T x T scores with relative positions and then the mask. live: one stream, samples to frames.
long: an hour in one pass, each in a process of its own. Multiply-adds are counted from shapes.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from cases import dense_relative
from timing import machine, medians_ms

from headrace import EncoderConfig, SpeechEncoder
from headrace.mixers.deformable import KERNEL
from headrace.streaming import StreamState

RESULTS = Path(__file__).resolve().parent / "results"
WIDTH, FFN, HEADS, LAYERS, CONV_KERNEL, HOP = 512, 2048, 8, 12, 31, 16
FRAME_SECONDS, WHOLE_FRAMES = 0.04, 750
LONG_MINUTES = (15, 60)
MOST_BYTES = 24e9
DENSE = "dense, relative, masked"

# what is slower, what is faster, how many times at least
TARGETS = (
    (DENSE, "none", 1.7),
    ("chunked", "deformable", 1.0),
)
SHARE_OF_ALLOWED = 0.9  # of the speed-up of none over chunked that multiply-adds allow


def encoder_of(mixer: str, look_back: int | None = 0, **changes: Any) -> SpeechEncoder:
    """The papers' conformer with a mixer."""
    torch.manual_seed(0)
    config = EncoderConfig(
        block="conformer", mixer=mixer, positions="relative" if mixer == "chunked" else "none", hop=HOP,
        look_back=look_back, num_layers=LAYERS, embed_dim=WIDTH, ffn_dim=FFN, num_heads=HEADS, conv_kernel=CONV_KERNEL,
        frontend="log_mel", **changes,
    )  # fmt: skip
    return SpeechEncoder(config).eval()


def multiply_adds(mixer: str) -> int:
    """Of a frame in a layer, in chunks of HOP without left context."""
    shared = 4 * WIDTH * FFN + 3 * WIDTH * WIDTH + CONV_KERNEL * WIDTH
    own = {
        "none": 0,
        "chunked": 4 * WIDTH * WIDTH + 2 * HOP * WIDTH + (2 * HOP - 1) * WIDTH,  # projections; q.k and p.v; distances
        "deformable": 2 * KERNEL * WIDTH * WIDTH // HEADS // 2 + KERNEL * WIDTH * KERNEL + KERNEL * HOP * WIDTH,
        "summary": 4 * WIDTH * WIDTH,
    }
    return shared + own[mixer]


# ---- whole utterances ----


def whole(repeats: int) -> dict[str, Any]:
    """Milliseconds of 30 s, each mixer in turn, and what the counted multiply-adds allow."""
    frames = torch.randn(1, WHOLE_FRAMES, WIDTH)
    encoders = {mixer: encoder_of(mixer) for mixer in ("chunked", "deformable", "none", "summary")}
    dense = encoder_of("chunked")
    dense_relative(dense)
    with torch.no_grad():
        ours, theirs = (each.context(frames)[-1] for each in (encoders["chunked"], dense))
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
        ways: dict[str, Callable[[], object]] = {
            name: lambda context=encoder.context: context(frames)
            for name, encoder in [*encoders.items(), (DENSE, dense)]
        }
        times = medians_ms(ways, repeats)
    allowed = multiply_adds("chunked") / multiply_adds("none")
    reached = times["chunked"] / times["none"]
    targets = [target(f"{slow} / {fast}", times[slow] / times[fast], least) for slow, fast, least in TARGETS]
    wanted = 1 + SHARE_OF_ALLOWED * (allowed - 1)
    targets.append(target(f"chunked / none, where multiply-adds allow {allowed:.2f}", reached, wanted))
    counted = {mixer: multiply_adds(mixer) for mixer in encoders}
    parameters = {mixer: sum(p.numel() for p in encoder.context.parameters()) for mixer, encoder in encoders.items()}
    return {"case": "whole", "median_ms": times, "multiply_adds": counted, "parameters": parameters, "targets": targets}


def target(what: str, reached: float, least: float) -> dict[str, Any]:
    """One target as data, printed."""
    met = reached >= least
    print(f"  {'met' if met else 'MISSED'}: {what}: {reached:.2f}, at least {least:.2f} wanted")
    return {"what": what, "reached": round(reached, 3), "least": round(least, 3), "met": met}


# ---- live ----


def live(repeats: int) -> dict[str, Any]:
    """Milliseconds of a tick of 640 ms, of one stream, and the bytes of its state, which are as many at any time.

    chunked has four chunks of left context, summary all that was; none and deformable know their chunk alone.
    """
    look_backs = {"chunked": 4 * HOP, "deformable": 0, "none": 0, "summary": None}
    ways: dict[str, Callable[[], object]] = {}
    states: dict[str, StreamState] = {}
    for mixer, look_back in look_backs.items():
        encoder = encoder_of(mixer, look_back)
        states[mixer] = state = encoder.init_state()
        samples = torch.randn(1, encoder.clock(state).tick_samples)
        ways[mixer] = lambda encoder=encoder, state=state, samples=samples: encoder.tick(samples, state)
    times = medians_ms(ways, repeats)
    held = {mixer: state.num_bytes for mixer, state in states.items()}
    targets = [
        target(f"chunked / {mixer}, live", times["chunked"] / times[mixer], 1.0) for mixer in ("none", "summary")
    ]
    return {"case": "live", "median_ms": times, "state_bytes": held, "targets": targets}


# ---- an hour at once ----


def long() -> dict[str, Any]:
    """Seconds and the most bytes of a quarter of an hour and an hour, samples to frames, in one pass."""
    rows, targets = [], []
    for mixer in ("none", "summary"):
        found = {}
        for minutes in LONG_MINUTES:
            threads = str(torch.get_num_threads())
            command = [sys.executable, __file__, "--threads", threads, "--one-pass", mixer, str(minutes)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            found[minutes] = json.loads(done.stdout.splitlines()[-1])
            rows.append({"mixer": mixer, "minutes": minutes, **found[minutes]})
            print(
                f"  {mixer}, {minutes} min: {found[minutes]['seconds']:.0f} s, {found[minutes]['bytes'] / 1e9:.1f} GB"
            )
        short, hour = (found[minutes] for minutes in LONG_MINUTES)
        growth = LONG_MINUTES[1] / LONG_MINUTES[0]
        for what, key, slack in (("time", "seconds", 1.15), ("memory", "bytes", 1.05)):
            targets.append(target(f"{mixer}: linear {what}", growth * slack / (hour[key] / short[key]), 1.0))
        targets.append(target(f"{mixer}: an hour within 24 GB", MOST_BYTES / hour["bytes"], 1.0))
    return {"case": "long", "rows": rows, "targets": targets}


def one_pass(mixer: str, minutes: int) -> dict[str, float]:
    """What a process that does nothing else measures."""
    encoder = encoder_of(mixer, None if mixer == "summary" else 0)
    waveform = torch.randn(1, int(minutes * 60 * encoder.config.sample_rate))
    start = time.perf_counter()
    with torch.no_grad():
        out = encoder(waveform)
    assert out.last_hidden_state.isfinite().all()
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "bytes": 1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}


def main() -> int:
    """Time, print and store; 1 when a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--one-pass", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.one_pass:
        print(json.dumps(one_pass(options.one_pass[0], int(options.one_pass[1]))))
        return 0
    cases = []
    for name, run in (
        ("whole", lambda: whole(options.repeats)),
        ("live", lambda: live(options.repeats)),
        ("long", long),
    ):
        print(name, flush=True)
        cases.append(run())
        for way, ms in cases[-1].get("median_ms", {}).items():
            print(f"  {way:24} {ms:10.1f} ms")
        text = json.dumps({"machine": machine(), "repeats": options.repeats, "cases": cases}, indent=1)
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "mixers_cpu.json").write_text(text + "\n")  # after each case, which takes long
    return 0 if all(found["met"] for case in cases for found in case["targets"]) else 1


if __name__ == "__main__":
    sys.exit(main())

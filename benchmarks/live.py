# SPDX-License-Identifier: Apache-2.0
"""What does running live cost: one stream, many streams, hours on end, and what would a user do instead?

    python benchmarks/live.py                       # the tables; benchmarks/results/live_cpu.json; twenty minutes
    python benchmarks/live.py --only "one stream"   # one part, not stored

A 12-layer base encoder with random weights and noise as audio: neither changes the time. Steps are timed one by one,
ten of each way of a part in turn; medians. A real-time factor is time spent for each unit of audio. What 8-bit weights
cost in accuracy needs a trained encoder: `python downstream/score_live.py FOLDER --data CORPUS --int8`.

A tick is hundreds of short parallel pieces. As a live server should, this sets OMP_WAIT_POLICY=ACTIVE, so that threads
wait for the next piece awake; set the variable yourself to measure without.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from cases import LOOK_AHEAD, LOOK_BACK
from timing import machine

from headrace import EncoderConfig, SpeechEncoder
from headrace.int8 import to_int8

RESULTS = Path(__file__).resolve().parent / "results"
WINDOW_SECONDS = 5
HOURS = 10
MINUTES_OF_DRIFT, MOST_DRIFT = 5, 1e-5
FRAME_SECONDS = 0.02
IN_A_ROW = 10  # calls of one way before the next one's
# mixer, hop, weights -> real-time factor of one stream, at most
ONE_STREAM = {
    ("sa", 1, "fp32"): None,
    ("sa", 1, "int8"): 0.8,
    ("sa", 4, "fp32"): 0.6,
    ("sa", 4, "int8"): 0.3,
    ("llsa", 1, "fp32"): None,
    ("llsa", 1, "int8"): 1.0,
    ("llsa", 8, "fp32"): 0.8,
    ("llsa", 8, "int8"): 0.4,
}


def base(mixer: str, hop: int = 1, **changes: Any) -> SpeechEncoder:
    """wav2vec 2.0 base with A = 8, B = 64, unless changed."""
    torch.manual_seed(0)
    reach: dict[str, Any] = {"look_ahead": LOOK_AHEAD, "look_back": LOOK_BACK, "hop": hop if mixer == "llsa" else 1}
    return SpeechEncoder(EncoderConfig(mixer=mixer, **{**reach, **changes})).eval()


def step_of(encoder: SpeechEncoder, hop: int, streams: int = 1) -> Callable[[], object]:
    """One tick of all streams."""
    state = encoder.init_state(streams, hop=hop)
    samples = torch.randn(streams, encoder.clock(state).tick_samples)
    return lambda: encoder.tick(samples, state)


def medians_of(ways: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Seconds of a call, all ways in turn, each some calls in a row: a stream's ticks follow each other."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    with torch.no_grad():
        for _ in range(-(-repeats // IN_A_ROW)):
            for name, way in ways.items():
                way()  # finds the caches as another way left them
                for _ in range(IN_A_ROW):
                    start = time.perf_counter()
                    way()
                    times[name].append(time.perf_counter() - start)
    return {name: statistics.median(each) for name, each in times.items()}


def one_stream(repeats: int) -> dict[str, Any]:
    """Real-time factors of one stream."""
    rows = []
    for mixer in ("sa", "llsa"):
        wanted = {key: most for key, most in ONE_STREAM.items() if key[0] == mixer}
        seconds = medians_of({name_of(*key): step_of(encoder_of(*key), key[1]) for key in wanted}, repeats)
        for key, most in wanted.items():
            each = seconds[name_of(*key)]
            factor = each / (key[1] * FRAME_SECONDS)
            rows.append({"way": name_of(*key), "step_ms": 1e3 * each, "real_time_factor": factor, "at_most": most,
                         "met": most is None or factor <= most})  # fmt: skip
    return {"rows": rows}


def name_of(mixer: str, hop: int, weights: str) -> str:
    """For the tables."""
    return f"{mixer}, hop {hop}, {weights}"


def encoder_of(mixer: str, hop: int, weights: str) -> SpeechEncoder:
    """A base encoder with fp32 or 8-bit weights."""
    return base(mixer, hop) if weights == "fp32" else to_int8(base(mixer, hop))


def many_streams(repeats: int) -> dict[str, Any]:
    """Streams that one machine serves in real time, by batch size and hop."""
    rows = []
    for key in ONE_STREAM:
        encoder, hop = encoder_of(*key), key[1]
        ways = {str(streams): step_of(encoder, hop, streams) for streams in (1, 4, 16)}
        seconds = medians_of(ways, max(5, repeats // 4))
        for streams, each in seconds.items():
            served = int(streams) * hop * FRAME_SECONDS / each
            rows.append({"way": name_of(*key), "batch": int(streams), "streams_in_real_time": served})
    of_sa = name_of("sa", 1, "fp32")
    one, sixteen = (
        next(r["streams_in_real_time"] for r in rows if r["way"] == of_sa and r["batch"] == b) for b in (1, 16)
    )
    target = {"what": "throughput of 16 sa streams against one", "reached": sixteen / one, "at_least": 4.0}
    return {"rows": rows, "target": {**target, "met": sixteen / one >= 4.0}}


def instead(repeats: int) -> dict[str, Any]:
    """What a user would do without: the last 5 s encoded again for every hop; Emformer's own live running."""
    window = base("full")
    waveform = torch.randn(1, int(WINDOW_SECONDS / FRAME_SECONDS) * 320 + 80)
    ways: dict[str, Callable[[], object]] = {
        "llsa, hop 4": step_of(base("llsa", 4), 4),
        "full over the last 5 s, every 4 frames": lambda: window(waveform),
    }
    emformer = emformer_step(4)
    if emformer is not None:
        ways["torchaudio's Emformer, segments of 4, without its front-end"] = emformer
    seconds = medians_of(ways, max(5, repeats // 4))
    rows = [
        {"way": name, "step_ms": 1e3 * each, "seconds_for_a_second_of_audio": each / (4 * FRAME_SECONDS)}
        for name, each in seconds.items()
    ]
    ratio = seconds["full over the last 5 s, every 4 frames"] / seconds["llsa, hop 4"]
    return {"rows": rows, "target": {"what": "less compute than encoding 5 s again", "reached": ratio, "at_least": 10.0,
                                     "met": ratio >= 10}}  # fmt: skip


def emformer_step(hop: int) -> Callable[[], object] | None:
    """One segment of a base-sized Emformer; None where torchaudio is absent."""
    torchaudio = importlib.util.find_spec("torchaudio")
    if torchaudio is None or torchaudio.origin is None:
        return None
    spec = importlib.util.spec_from_file_location(
        "torchaudio_emformer", Path(torchaudio.origin).parent / "models" / "emformer.py"
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    torch.manual_seed(0)
    emformer = module.Emformer(
        768, 12, 3072, 12, hop, activation="gelu", left_context_length=LOOK_BACK, right_context_length=LOOK_AHEAD
    ).eval()
    frames, lengths = torch.randn(1, hop + LOOK_AHEAD, 768), torch.tensor([hop + LOOK_AHEAD])
    states: list[Any] = [None]

    def step() -> None:
        _, _, states[0] = emformer.infer(frames, lengths, states[0])

    return step


def hours(repeats: int) -> dict[str, Any]:
    """A small encoder over 10 hours of audio: time of a step, memory, and periodic input."""
    hop = 25
    encoder = base("llsa", hop, num_layers=2, embed_dim=64, ffn_dim=128, num_heads=2,
                   conv_layers=[[32, 10, 5], *[[32, 3, 2]] * 4, *[[32, 2, 2]] * 2])  # fmt: skip
    state = encoder.init_state()
    samples = torch.randn(1, encoder.clock(state).tick_samples)
    per_hour = int(3600 / (hop * FRAME_SECONDS))
    rows, before, periodic = [], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, None
    for hour in range(HOURS):
        times = []
        for _ in range(per_hour):
            start = time.perf_counter()
            (frames,), _ = encoder.tick(samples, state)
            times.append(time.perf_counter() - start)
        drift = 0.0 if periodic is None else float((frames - periodic).abs().max() / periodic.abs().max())
        periodic = frames
        held = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        rows.append({"hour": hour + 1, "step_ms": 1e3 * statistics.median(times), "state_kb": state.num_bytes / 1024,
                     "more_memory_mb": held, "change_of_periodic_frames": drift})  # fmt: skip
        print(f"  hour {hour + 1}: {rows[-1]['step_ms']:.3f} ms a step, {held:.1f} MB more", flush=True)
    ratio = rows[-1]["step_ms"] / rows[0]["step_ms"]
    return {"rows": rows, "target": {"what": "time of a step in the last hour against the first", "reached": ratio,
                                     "at_most": 1.05, "met": ratio <= 1.05}}  # fmt: skip


def drift(_: int) -> dict[str, Any]:
    """A base encoder over 5 minutes by step, against the whole utterance: as near at the end as at the start."""
    rows = []
    waveform = torch.randn(1, MINUTES_OF_DRIFT * 60 * 16000)
    for mixer in ("sa", "llsa"):
        encoder = base(mixer, 8 if mixer == "llsa" else 1)
        with torch.no_grad():
            whole = encoder(waveform).last_hidden_state
            state = encoder.init_state(hop=8)
            steps = [encoder.step(samples, state)[0] for samples in waveform.split(16000, dim=1)]
            frames = [out.last_hidden_state for out in (*steps, encoder.finish(state)[0])]
        difference = (torch.cat(frames, 1) - whole).abs().amax((0, 2)) / whole.abs().amax()
        first, last = (float(part.max()) for part in (difference[:500], difference[-500:]))
        rows.append({"way": mixer, "frames": whole.shape[1], "difference_first_10_s": first,
                     "difference_last_10_s": last, "largest": float(difference.max()),
                     "met": bool(difference.max() <= MOST_DRIFT)})  # fmt: skip
    return {"rows": rows}


PARTS = {
    "one stream": one_stream,
    "many streams": many_streams,
    "instead": instead,
    "drift": drift,
    "hours": hours,
}


def main() -> int:
    """Time, print and store; 1 when a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=tuple(PARTS), help="one part, not stored")
    parser.add_argument("--repeats", type=int, default=40)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    if "OMP_WAIT_POLICY" not in os.environ:  # read when torch is loaded: too late for this process
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, "OMP_WAIT_POLICY": "ACTIVE"})
    torch.set_num_threads(options.threads)
    where = {**machine(), "omp_wait_policy": os.environ["OMP_WAIT_POLICY"]}
    results: dict[str, Any] = {"machine": where, "repeats": options.repeats, "parts": {}}
    for name, part in PARTS.items():
        if options.only in (None, name):
            print(name, flush=True)
            results["parts"][name] = found = part(options.repeats)
            show(found)
    if options.only is None:
        (RESULTS / "live_cpu.json").write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(where))
    return 0 if all(is_met(part) for part in results["parts"].values()) else 1


def show(found: dict[str, Any]) -> None:
    """A part, on the terminal."""
    for row in found["rows"]:
        print("  " + ", ".join(f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}"
                               for key, value in row.items()))  # fmt: skip
    if "target" in found:
        print("  " + ", ".join(f"{key} {value}" for key, value in found["target"].items()))


def is_met(part: dict[str, Any]) -> bool:
    """Whether all its targets were reached."""
    return all(row.get("met", True) for row in part["rows"]) and part.get("target", {}).get("met", True)


if __name__ == "__main__":
    sys.exit(main())

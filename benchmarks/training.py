# SPDX-License-Identifier: Apache-2.0
"""What does streaming cost in training? A wav2vec 2.0 base encoder, forward, backward and AdamW, per mixer.

    python benchmarks/training.py                   # the tables; benchmarks/results/training_cpu.json

The whole encoder (front-end and 12 layers of 768) compares ``sa`` with ``full`` through scaled_dot_product_attention;
the stack of blocks alone compares ``llsa`` with ``sa``. The loss is the mean square of the result: an objective's own
cost is the same for all.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from cases import LOOK_AHEAD, LOOK_BACK
from timing import machine, medians_ms

from headrace import EncoderConfig, SpeechEncoder

RESULTS = Path(__file__).resolve().parent / "results"
SAMPLE_RATE, FRAMES_PER_SECOND = 16000, 50

# name: (what the ratio's top is, its bottom, at most)
TARGETS = {
    "whole, 15 s": ("sa", "full", 1.05),
    "whole, 30 s": ("sa", "full", 1.0),
    "stack, 15 s, hop 1": ("llsa hop 1", "sa", 0.9 * (LOOK_AHEAD + 1)),
    "stack, 15 s, hop 8": ("llsa hop 8", "sa", 2.1),
}


def base(mixer: str, hop: int = 1) -> SpeechEncoder:
    """wav2vec 2.0 base, with A = 8 and B = 64 where the mixer streams."""
    torch.manual_seed(0)
    reach = {} if mixer == "full" else {"look_ahead": LOOK_AHEAD, "look_back": LOOK_BACK, "hop": hop}
    return SpeechEncoder(EncoderConfig(mixer=mixer, **reach)).train()


def step_of(model: torch.nn.Module, run: Callable[[], torch.Tensor]) -> Callable[[], None]:
    """One update: forward, backward, AdamW."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        run().pow(2).mean().backward()
        optimizer.step()

    return step


def whole(seconds: float) -> dict[str, Callable[[], None]]:
    """Waveforms to hidden states."""
    waveforms = torch.randn(1, int(seconds * SAMPLE_RATE))
    ways = {}
    for mixer in ("sa", "full"):
        encoder = base(mixer)
        ways[mixer] = step_of(encoder, lambda encoder=encoder: encoder(waveforms).last_hidden_state)
    return ways


def stack(seconds: float, hops: tuple[int, ...]) -> dict[str, Callable[[], None]]:
    """Frames to hidden states: the blocks alone."""
    frames = torch.randn(1, int(seconds * FRAMES_PER_SECOND), 768)
    encoders = {"sa": base("sa")} | {f"llsa hop {hop}": base("llsa", hop) for hop in hops}
    return {
        name: step_of(encoder.context, lambda context=encoder.context: context(frames)[-1])
        for name, encoder in encoders.items()
    }


def main() -> int:
    """Time, print and store; 1 when a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    cases = {
        "whole, 15 s": lambda: whole(15),
        "whole, 30 s": lambda: whole(30),
        "stack, 15 s, hop 1": lambda: stack(15, (1,)),
        "stack, 15 s, hop 8": lambda: stack(15, (8,)),
    }
    results = [report(name, medians_ms(make(), options.repeats)) for name, make in cases.items()]
    RESULTS.mkdir(exist_ok=True)
    text = json.dumps({"machine": machine(), "repeats": options.repeats, "cases": results}, indent=1)
    (RESULTS / "training_cpu.json").write_text(text + "\n")
    print(json.dumps(machine()))
    return 0 if all(result["met"] for result in results) else 1


def report(name: str, times: dict[str, float]) -> dict[str, Any]:
    """Print one case and give it as data."""
    top, bottom, most = TARGETS[name]
    ratio = times[top] / times[bottom]
    met = ratio <= most
    print(f"\n{name}")
    for way, ms in times.items():
        print(f"  {way:12} {ms:10.1f} ms an update")
    print(
        f"  {'met' if met else 'MISSED'}: {top} takes {ratio:.2f} x the time of {bottom}, at most {most:.2f} x wanted"
    )
    target = {"top": top, "bottom": bottom, "most": most, "reached": round(ratio, 3), "met": met}
    return {"case": name, "median_ms": {way: round(ms, 1) for way, ms in times.items()}, **target}


if __name__ == "__main__":
    sys.exit(main())

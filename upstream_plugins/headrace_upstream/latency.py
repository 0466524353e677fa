# SPDX-License-Identifier: Apache-2.0
"""How late is any s3prl upstream? The certificate of ``headrace latency``, through the upstream itself.

    python -m headrace_upstream.latency headrace_local -k exp/llsa-base
    python -m headrace_upstream.latency hubert_base --seconds 8
    python -m headrace_upstream.latency NAME -k CKPT --json latency.json

An upstream of headrace is held against its claim, sample by sample. Any other claims nothing, and is asked what its
frames wait for. Exit status 0: every claim holds, or every hidden state waits for a bounded time; 1: one does not; 2:
it could not be loaded.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from headrace.latency import Claim, Grid, observe_waits, proof_samples, prove
from headrace_upstream.expert import SAMPLE_RATE, EncoderUpstream
from headrace_upstream.register import register


def main(arguments: Sequence[str] | None = None) -> int:
    """Load, try, print and store."""
    parser = argparse.ArgumentParser(
        prog="python -m headrace_upstream.latency",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", metavar="NAME", help="as s3prl's -u")
    parser.add_argument("-k", "--checkpoint", help="as s3prl's -k")
    parser.add_argument("--seconds", type=float, default=6.0, help="of audio, for upstreams that claim nothing")
    parser.add_argument("--json", metavar="FILE", help="where the numbers go")
    options = parser.parse_args(arguments)
    try:
        upstream = load(options.name, options.checkpoint)
        found = certify(upstream) if isinstance(upstream, EncoderUpstream) else look(upstream, options.seconds)
    except (ImportError, ValueError, OSError, AttributeError) as error:
        print(f"headrace_upstream.latency: {options.name}: {error}", file=sys.stderr)
        return 2
    for layer, row in enumerate(found["hidden_states"]):
        claimed = f"claimed {_ms(row['claimed_ms'])}, " if "claimed_ms" in row else ""
        print(f"hidden state {layer:>2}: {claimed}waits {_ms(row['observed_ms'])}{'' if row['holds'] else '  FAILS'}")
    print(found["says"])
    if options.json:
        Path(options.json).write_text(json.dumps({"upstream": options.name, **found}, indent=1) + "\n")
    return 0 if found["holds"] else 1


def load(name: str, checkpoint: str | None) -> torch.nn.Module:
    """An upstream by its name in s3prl, in eval mode.

    Raises:
        ValueError: s3prl has no such entry.
    """
    register()
    hub = importlib.import_module("s3prl.hub")
    if not hasattr(hub, name):
        raise ValueError("s3prl has no such upstream; s3prl.hub.options() lists them.")
    entry = getattr(hub, name)
    return (entry(ckpt=checkpoint) if checkpoint else entry()).eval()


def certify(upstream: EncoderUpstream) -> dict[str, Any]:
    """An upstream of headrace against the claim of its encoder."""
    claim = Claim.of(upstream.encoder)
    proofs = prove(_encode(upstream.double()), claim, proof_samples(claim))
    rows = [
        {"claimed_ms": proof.claimed_ms, "observed_ms": proof.observed_ms, "holds": proof.holds} for proof in proofs
    ]
    holds = all(row["holds"] for row in rows)
    return {"hidden_states": rows, "holds": holds, "says": "every claim holds" if holds else "A CLAIM FAILS"}


def look(upstream: torch.nn.Module, seconds: float) -> dict[str, Any]:
    """Any upstream: what its hidden states wait for."""
    stride = int(upstream.get_downsample_rates("hidden_states"))  # type: ignore[operator]
    grid = Grid(stride, stride, SAMPLE_RATE)
    waits = observe_waits(_encode(upstream), grid, int(seconds * SAMPLE_RATE))
    rows = [{"observed_ms": wait, "holds": wait is not None} for wait in waits]
    holds = all(row["holds"] for row in rows)
    says = "causal up to these waits" if holds else f"NOT CAUSAL: it waits for the whole utterance (of {seconds:g} s)"
    return {"hidden_states": rows, "holds": holds, "says": says}


def _encode(upstream: torch.nn.Module) -> Any:
    return lambda waveform: upstream([waveform[0]])["hidden_states"]


def _ms(value: float | None) -> str:
    return "whole utterance" if value is None else f"{value:g} ms"


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Synthesise the demo corpus: DEST/asr in LibriSpeech's layout, DEST/ser in IEMOCAP's; no download.

A dozen voices to train on, four others each for dev and test; five sessions of two actors, four emotions
rendered by pitch, range, rate and volume. The same flags give the same bytes. A killed run goes on; a complete
one returns at once.
"""

from __future__ import annotations

import argparse
import json
import sys
from importlib import metadata
from pathlib import Path

from headrace_manifests import demo_script as script
from headrace_manifests.command import available_cpus, parser_for, run
from headrace_manifests.demo_corpus import Acting, Part, Reading, speak_all
from headrace_manifests.espeak import load_library
from headrace_manifests.files import write_whole

RECIPE = 1
"""Raised whenever the same flags would give other audio."""
MARKER = "demo.json"
SPLIT_MINUTES = {"train": 25.0, "dev": 3.0, "test": 3.0}


def parser() -> argparse.ArgumentParser:
    result = parser_for(__doc__)
    result.add_argument("dest", metavar="DEST", type=Path, help="folder to fill; must be new, empty, or its own")
    result.add_argument("--seed", default=0, type=int, metavar="N", help="which sentences are said, and how (0)")
    for split, minutes in SPLIT_MINUTES.items():
        result.add_argument(
            f"--{split}-minutes", default=minutes, type=float, metavar="M", help=f"speech in asr/{split} ({minutes:g})"
        )
    result.add_argument(
        "--emotion-minutes", default=9.0, type=float, metavar="M", help="speech in ser, over all sessions (9)"
    )
    result.add_argument(
        "--workers", default=available_cpus(), type=int, metavar="N", help="voices spoken at a time (all CPUs)"
    )
    return result


def plan(dest: Path, minutes: dict[str, float], seed: int) -> list[Part]:
    """List the parts; `minutes` by split and for 'emotion', shared evenly among the voices of each."""
    parts: list[Part] = []
    for split, voices in script.READERS.items():
        seconds = 60 * minutes[split] / len(voices)
        parts += [Reading(dest / "asr", split, number, seconds, seed) for number in range(len(voices))]
    seconds = 60 * minutes["emotion"] / (2 * len(script.ACTORS))
    for session in range(1, len(script.ACTORS) + 1):
        parts += [Acting(dest / "ser", session, number, seconds, seed) for number in range(2)]
    return parts


def claim(dest: Path, parameters: dict[str, object]) -> None:
    """Mark DEST as ours before anything is written to it.

    Raises:
        ValueError: DEST holds something else, or a demo corpus made with other parameters.
    """
    marker = dest / MARKER
    if not marker.exists():
        if dest.exists() and (not dest.is_dir() or any(dest.iterdir())):
            raise ValueError(f"{dest} is not empty and holds no demo corpus; choose another folder")
        write_whole(marker, json.dumps(parameters, indent=1) + "\n")
    try:
        found = json.loads(marker.read_text(encoding="utf-8"))
    except ValueError:
        found = None
    if found != parameters:
        raise ValueError(f"{dest} holds a demo corpus made with {found}, asked for {parameters}; remove it first")


def main(arguments: list[str] | None = None) -> None:
    options = parser().parse_args(arguments)
    minutes = {name: getattr(options, f"{name}_minutes") for name in (*SPLIT_MINUTES, "emotion")}
    for name, value in minutes.items():
        if not 0 < value <= 6000:
            raise ValueError(f"--{name}-minutes: expected more than 0 and at most 6000, got {value:g}")
    if options.workers < 1:
        raise ValueError(f"--workers: expected 1 or more, got {options.workers}")
    load_library()
    version = metadata.version("espeakng-loader")
    claim(options.dest, {"recipe": RECIPE, "seed": options.seed, "minutes": minutes, "espeakng-loader": version})
    parts = plan(options.dest, minutes, options.seed)
    if all(part.is_done() for part in parts):
        print(f"{options.dest}: complete already")
        return
    speak_all(parts, options.workers)
    print(f"{options.dest}: asr ({', '.join(script.READERS)}) and ser ({len(script.ACTORS)} sessions) are complete")


if __name__ == "__main__":
    sys.exit(run(main))

#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Print the score of an evaluated run, or what two runs on the same utterances differ by.

python downstream/score.py EXPDIR [OTHER] [--split SPLIT]         difference = EXPDIR - OTHER
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent))

from headrace_downstream import score


def report(expdir: Path, other: Path | None, split: str | None, seed: int) -> tuple[list[str], dict[str, object]]:
    """The lines to print, and the same as one JSON object. Scores are computed anew from the kept predictions.

    Args:
        split: whose scores; None for the headline's.

    Raises:
        ValueError: a folder holds no score, or the two cannot be compared.
    """
    kept = [score.read(folder / score.file_of(split)) for folder in (expdir, other) if folder is not None]
    said = [score.load_predictions(folder, one) for folder, one in zip((expdir, other), kept, strict=False) if folder]
    anew = [one | score.score(one["task"], items, seed) for one, items in zip(kept, said, strict=True)]
    lines = [line for one in anew for line in score.summary(one)]
    if other is None:
        return lines, anew[0]
    tasks = [one["task"] for one in anew]
    if tasks[0] != tasks[1]:
        raise ValueError(f"{expdir} is {tasks[0]} and {other} is {tasks[1]}; give two runs of one task")
    difference = score.compare(tasks[0], *said, seed)
    return [*lines, "difference, first - second", *score.lines(difference)], difference


def main(argv: list[str]) -> int:
    """Print; 2 and one line for what the caller can mend."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("expdir", type=Path, metavar="EXPDIR")
    parser.add_argument("other", type=Path, nargs="?", metavar="OTHER")
    parser.add_argument("--split", help="default: test-clean for asr, test for emotion")
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap (default %(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(argv)
    try:
        lines, result = report(options.expdir, options.other, options.split, options.seed)
    except ValueError as mistake:
        print(f"score.py: {mistake}", file=sys.stderr)
        return 2
    print(json.dumps(result, indent=2) if options.json else "\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Score what `headrace stream` says: the word error rate of a portable folder with a head, run live.

python downstream/score_live.py FOLDER --data CORPUS --split test           # LibriSpeech layout
python downstream/score_live.py FOLDER --data CORPUS --split test --int8    # and what 8-bit weights cost
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parent.parent
for folder in (CHECKOUT / "downstream", CHECKOUT):
    if str(folder) not in sys.path:
        sys.path.append(str(folder))

from headrace import checkpoint  # noqa: E402  (importable only from here on)
from headrace.head import load_head  # noqa: E402
from headrace_downstream import live_score, score  # noqa: E402


def report(folder: Path, corpus: Path, split: str, with_int8: bool) -> tuple[list[str], dict[str, Any]]:
    """The lines to print, and the same as one JSON object.

    Raises:
        ValueError: no head in the folder, no such split, or audio that cannot be read.
    """
    head = load_head(folder)
    if head is None:
        raise ValueError(f"{folder} has no head; train one with -c downstream/asr/config_causal.yaml and put it there "
                         "with downstream/export_head.py")  # fmt: skip
    utterances = live_score.read_split(corpus, split)
    lines, result, said = [], {}, []
    for weights in ("fp32", "int8") if with_int8 else ("fp32",):
        encoder = checkpoint.load(folder, int8=weights == "int8")
        said.append(live_score.transcribe(encoder, head, utterances))
        result[weights] = score.score("asr", said[-1])
        lines += [f"{weights} weights, live", *score.lines(result[weights])]
    if with_int8:
        result["difference"] = score.compare("asr", said[1], said[0])
        lines += ["difference, int8 - fp32", *score.lines(result["difference"])]
    return lines, result


def main(argv: list[str]) -> int:
    """Print; 2 and one line for what the caller can mend."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="a portable folder with head.safetensors")
    parser.add_argument("--data", type=Path, required=True, metavar="CORPUS")
    parser.add_argument("--split", default="test-clean", help="a folder of the corpus (default %(default)s)")
    parser.add_argument("--int8", action="store_true", help="with 8-bit weights too, and the paired difference")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(argv)
    try:
        lines, result = report(options.folder, options.data, options.split, options.int8)
    except ValueError as mistake:
        print(f"score_live.py: {mistake}", file=sys.stderr)
        return 2
    print(json.dumps(result, indent=2) if options.json else "\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

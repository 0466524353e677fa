#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Check manifests before hours go into them: the audio is there, and label files have a line per row."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from headrace_manifests.command import parser_for, run
from headrace_manifests.files import read_manifest

LABEL_ENDINGS = (".ltr", ".wrd", ".phn", ".km")


def parser() -> argparse.ArgumentParser:
    result = parser_for(__doc__)
    result.add_argument("manifests", nargs="+", metavar="TSV", type=Path, help="e.g. data/train.tsv")
    return result


def check(manifest: Path) -> str:
    """Return a line of praise for a sound manifest.

    Raises:
        ValueError: the root or a file is missing, a row is malformed, or a label file beside the manifest has
            another number of lines.
    """
    root, rows = read_manifest(manifest)
    if not root.is_dir():
        raise ValueError(f"{manifest}: its root {root} is not there; was the corpus moved? Make the manifest again")
    if not rows:
        raise ValueError(f"{manifest}: lists no file; make the manifest again")
    missing = [name for name, _ in rows if not (root / name).is_file()]
    if missing:
        raise ValueError(f"{manifest}: {len(missing)} of {len(rows)} files are missing below {root}, e.g. {missing[0]}")
    labels = [path for path in (manifest.with_suffix(ending) for ending in LABEL_ENDINGS) if path.exists()]
    for path in labels:
        num_lines = len(path.read_text(encoding="utf-8").removesuffix("\n").split("\n"))
        if num_lines != len(rows):
            raise ValueError(
                f"{path}: {num_lines} lines for the {len(rows)} files of {manifest.name}: labels would go to the "
                "wrong audio; make both again"
            )
    beside = f" and their {', '.join(path.suffix for path in labels)}" if labels else ""
    return f"{manifest}: {len(rows)} files{beside} are there"


def main(arguments: list[str] | None = None) -> None:
    for manifest in parser().parse_args(arguments).manifests:
        print(check(manifest))


if __name__ == "__main__":
    sys.exit(run(main))

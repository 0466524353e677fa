#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Join the labels of all parts of a split: LAB_DIR/SPLIT.km, its note SPLIT.km.json, and dict.km.txt.

    python pretrain/labels/join_km_label.py TSV_DIR SPLIT KM_PATH NSHARD LAB_DIR LABEL_RATE

In fairseq this is `cat` and a shell loop, and a part that is missing or short goes unnoticed. Training asks the note.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parents[2])]

from headrace_labels import clusters  # noqa: E402
from headrace_labels.command import parser_of, run  # noqa: E402
from headrace_labels.label_file import join_parts  # noqa: E402
from headrace_labels.note import Note  # noqa: E402
from headrace_labels.shards import read_manifest  # noqa: E402


def main(options: argparse.Namespace) -> None:
    """Join."""
    manifest, found = read_manifest(options.tsv_dir, options.split), clusters.load(options.km_path)
    note = Note(manifest.rows, found.digest, options.label_rate, options.features, len(found.centroids))
    join_parts(options.lab_dir, options.split, options.nshard, manifest, note)


def parser() -> argparse.ArgumentParser:
    """Arguments as fairseq would order them."""
    p = parser_of(__doc__, "tsv_dir split km_path nshard lab_dir label_rate")
    p.add_argument("--features", default="", help="what was clustered, for the note")
    return p


if __name__ == "__main__":
    sys.exit(run(parser(), main))

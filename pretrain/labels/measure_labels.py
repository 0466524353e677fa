#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""How much of what was said do labels tell? Mutual information with the characters of transcripts, as a share.

    python pretrain/labels/measure_labels.py TSV_DIR SPLIT LAB_DIR CORPUS [--json FILE]

CORPUS is the one that the manifest's audio comes from, in LibriSpeech layout. 0: nothing; 1: every character. By
chance: the same with each utterance's characters in another order; more clusters tell more so.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parents[2])]

from headrace_labels.command import parser_of, run  # noqa: E402
from headrace_labels.information import measure, read_transcripts  # noqa: E402
from headrace_labels.label_file import read_labels  # noqa: E402
from headrace_labels.note import Note, note_of, read_note  # noqa: E402
from headrace_labels.shards import Manifest, read_manifest  # noqa: E402


def main(options: argparse.Namespace) -> None:
    """Measure and print."""
    labels = options.lab_dir / f"{options.split}.km"
    manifest, note = read_manifest(options.tsv_dir, options.split), read_note(labels)
    if note is None:
        raise ValueError(f"{note_of(labels)} is not there: join the parts with pretrain/labels/join_km_label.py.")
    found = measure(manifest, _labels_of(manifest, labels, note), note.label_rate, read_transcripts(options.corpus))
    told = f"{note.num_clusters} clusters of {note.features} tell {found.share:.4f} of the characters' entropy"
    by_chance = f"{found.chance:.4f} by chance"
    print(f"{labels}: {told}, {by_chance} ({found.frames} frames of {found.utterances} utterances)")
    if options.json:
        options.json.write_text(json.dumps(asdict(note) | asdict(found), indent=1) + "\n", encoding="utf-8")


def _labels_of(manifest: Manifest, path: Path, note: Note) -> list[np.ndarray]:
    """Labels [T] of each utterance of a manifest; ValueError where they are not this manifest's."""
    if note.manifest_rows != manifest.rows:
        raise ValueError(
            f"{path} was made for another manifest than {manifest.path}: give the one that it was made for, or make "
            "the labels again."
        )
    labels = read_labels(path)
    if len(labels) != len(manifest):
        raise ValueError(
            f"{path} has {len(labels)} lines and {manifest.path} lists {len(manifest)} files: the labels were edited "
            "or cut short. Join the parts again."
        )
    return labels


def parser() -> argparse.ArgumentParser:
    """Arguments in fairseq's manner."""
    p = parser_of(__doc__, "tsv_dir split lab_dir corpus")
    p.add_argument("--json", type=Path, metavar="FILE")
    return p


if __name__ == "__main__":
    sys.exit(run(parser(), main))

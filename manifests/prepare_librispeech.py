#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Make LibriSpeech, or any corpus in its layout, ready for fairseq and for s3prl's ASR task.

Per split: SPLIT.tsv .ltr .wrd (fairseq) and len_for_bucket/SPLIT.csv (s3prl); once: dict.ltr.txt (fairseq),
char.dict (s3prl), quarantine.tsv.
"""

from __future__ import annotations

import argparse
import csv
import io
import sys
from pathlib import Path

from headrace_manifests.audio import SAMPLE_RATE
from headrace_manifests.command import add_scan_arguments, parser_for, run, scan_from
from headrace_manifests.files import write_manifest, write_whole
from headrace_manifests.letters import ENGLISH, dictionary, letters, read_alphabet
from headrace_manifests.librispeech import Split, read_split
from headrace_manifests.quarantine import count_reasons, write_quarantine

SPLITS = {"train": "train-clean-100", "dev": "dev-clean", "test": "test-clean"}


def parser() -> argparse.ArgumentParser:
    result = parser_for(__doc__)
    add_scan_arguments(result)
    for role, default in SPLITS.items():
        result.add_argument(
            f"--{role}", nargs="+", default=[default], metavar="SPLIT", help=f"folders below ROOT ({default})"
        )
    result.add_argument(
        "--letters", type=Path, metavar="FILE", help="one letter a line, upper case (SUPERB's English: A-Z, apostrophe)"
    )
    return result


def length_buckets(rows: list[tuple[str, int]]) -> str:
    """Return the table that s3prl's `generate_len_for_bucket.py` would write: longest first, ties by path."""
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["", "file_path", "length", "label"])
    for index, (path, num_samples) in enumerate(sorted(rows, key=lambda row: (-row[1], row[0]))):
        writer.writerow([index, path, num_samples, ""])
    return table.getvalue()


def write_split(dest: Path, root: Path, split: Split, kept: dict[str, int]) -> None:
    """Write the four files of a split; `kept` holds the samples of the audio that can be used."""
    rows = [(path, kept[path]) for path in sorted(split.words) if path in kept]
    words = [split.words[path] for path, _ in rows]
    # The manifest comes last: where it stands, its labels stand too.
    write_whole(dest / "len_for_bucket" / f"{split.name}.csv", length_buckets(rows))
    write_whole(dest / f"{split.name}.wrd", "".join(f"{line}\n" for line in words))
    write_whole(dest / f"{split.name}.ltr", "".join(f"{letters(line)}\n" for line in words))
    write_manifest(dest / f"{split.name}.tsv", root, rows)
    hours = sum(num_samples for _, num_samples in rows) / SAMPLE_RATE / 3600
    print(f"{dest / split.name}.tsv: {len(rows)} utterances, {len(split.speakers)} speakers, {hours:.2f} h")


def warn_of_shared_speakers(splits: dict[str, list[Split]]) -> None:
    """Say on stderr when a speaker of a train split is also heard in dev or test."""
    trained = set().union(*(split.speakers for split in splits["train"]))
    for split in splits["dev"] + splits["test"]:
        shared = sorted(trained & split.speakers)
        if shared:
            names = ", ".join(shared[:5])
            print(f"warning: {split.name} and train share {len(shared)} speakers: {names}", file=sys.stderr)


def main(arguments: list[str] | None = None) -> None:
    options = parser().parse_args(arguments)
    scan = scan_from(options)
    chosen: dict[str, list[str]] = {role: getattr(options, role) for role in SPLITS}
    names = [name for role in SPLITS for name in chosen[role]]
    if len(set(names)) != len(names) or any("/" in name for name in names):
        raise ValueError(f"--train, --dev, --test: expected different folders directly below ROOT, got {names}")
    alphabet = read_alphabet(options.letters) if options.letters else ENGLISH
    splits = {role: [read_split(scan.root, name, alphabet) for name in chosen[role]] for role in SPLITS}
    every = [split for role in SPLITS for split in splits[role]]
    kept, rejects = scan.measure_all([path for split in every for path in sorted(split.words)])
    rejects += [reject for split in every for reject in split.rejects]
    num_found = sum(len(split.words) + len(split.rejects) for split in every)
    scan.tolerance.check(rejects, num_found, scan.quarantine)
    write_quarantine(scan.quarantine, rejects)
    for split in every:
        if not kept.keys() & split.words.keys():
            raise ValueError(f"{split.name}: no utterance is left; see {scan.quarantine}")
    warn_of_shared_speakers(splits)
    train = [words for split in splits["train"] for path, words in split.words.items() if path in kept]
    write_whole(scan.dest / "dict.ltr.txt", dictionary(alphabet.fairseq_order, train))
    write_whole(scan.dest / "char.dict", dictionary(alphabet.s3prl_order, train))
    for split in every:
        write_split(scan.dest, scan.root, split, kept)
    print(f"{scan.quarantine}: {len(rejects)} entries ({count_reasons(rejects)})")


if __name__ == "__main__":
    sys.exit(run(main))

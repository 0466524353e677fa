#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""List a folder of audio as fairseq's train.tsv and valid.tsv, leaving out, and naming, what would do harm.

fairseq's own flags and format; besides: every file is decoded, in parallel, a killed scan goes on where it
was, and two runs give the same bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import sys

from headrace_manifests.audio import SAMPLE_RATE
from headrace_manifests.command import add_scan_arguments, parser_for, run, scan_from
from headrace_manifests.files import find_files, write_manifest
from headrace_manifests.quarantine import count_reasons, write_quarantine
from headrace_manifests.scan import Scan


def parser() -> argparse.ArgumentParser:
    result = parser_for(__doc__)
    add_scan_arguments(result)
    result.add_argument(
        "--valid-percent",
        default=0.01,
        type=float,
        metavar="D",
        help="share held out, from 0 to less than 1 (0.01)",
    )
    result.add_argument("--ext", default="flac", metavar="EXT", help="extension, or several: flac,wav (flac)")
    result.add_argument("--seed", default=42, type=int, metavar="N", help="which files are held out (42)")
    result.add_argument(
        "--path-must-contain",
        action="append",
        metavar="FRAG",
        help="take only files whose full path contains FRAG; given several times, any of them",
    )
    return result


def split(names: list[str], valid_percent: float, seed: int) -> tuple[list[str], list[str]]:
    """Divide names into train and valid, each sorted.

    Each name draws a number from its own text and the seed, and the lowest are held out: neither the order of
    scanning nor the worker count matters, and one file more moves hardly any other. At least one is held out
    unless `valid_percent` is 0: fairseq stops on an empty validation set.

    Raises:
        ValueError: nothing would be left to train on.
    """
    ranked = sorted(names, key=lambda name: (hashlib.sha256(f"{seed}\t{name}".encode()).digest(), name))
    num_valid = round(valid_percent * len(names))
    if valid_percent > 0:
        num_valid = max(1, num_valid)
    if num_valid >= len(names):
        raise ValueError(
            f"--valid-percent: {valid_percent:g} of {len(names)} files holds out {num_valid} and leaves none to train "
            "on; expected a smaller share of more files, or --valid-percent 0 to hold out none"
        )
    return sorted(ranked[num_valid:]), sorted(ranked[:num_valid])


def select(scan: Scan, extensions: list[str], fragments: list[str] | None) -> list[str]:
    """Find the files asked for; raises ValueError when there are none."""
    names = find_files(scan.root, extensions)
    chosen = [name for name in names if not fragments or any(f in str(scan.root / name) for f in fragments)]
    if not chosen:
        wanted = f" with {' or '.join(map(repr, fragments))} in their path" if fragments else ""
        raise ValueError(
            f"{scan.root}: no *.{' or *.'.join(extensions)} files{wanted} ({len(names)} before choosing by "
            "path); check ROOT, --ext and --path-must-contain"
        )
    return chosen


def main(arguments: list[str] | None = None) -> None:
    options = parser().parse_args(arguments)
    if not 0 <= options.valid_percent < 1:
        raise ValueError(f"--valid-percent: expected a share from 0 to less than 1, got {options.valid_percent:g}")
    scan = scan_from(options)
    extensions = [extension.strip().lstrip(".") for extension in options.ext.split(",") if extension.strip(" .")]
    if not extensions:
        raise ValueError(f"--ext: expected an extension such as flac or flac,wav, got {options.ext!r}")
    kept, rejects = scan.measure_all(select(scan, extensions, options.path_must_contain))
    write_quarantine(scan.quarantine, rejects)
    if not kept:
        raise ValueError(f"no file is left: {count_reasons(rejects)}; see {scan.quarantine}")
    train, valid = split(list(kept), options.valid_percent, options.seed)
    for name, part in (("train", train), ("valid", valid)):
        path = scan.dest / f"{name}.tsv"
        if name == "train" or options.valid_percent > 0:
            write_manifest(path, scan.root, ((file, kept[file]) for file in part))
            hours = sum(kept[file] for file in part) / SAMPLE_RATE / 3600
            print(f"{path}: {len(part)} files, {hours:.2f} h")
        elif path.exists():
            print(f"{path}: left as an earlier run wrote it (--valid-percent 0)")
    print(f"{scan.quarantine}: {len(rejects)} files ({count_reasons(rejects)})")


if __name__ == "__main__":
    sys.exit(run(main))

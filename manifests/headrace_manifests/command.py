# SPDX-License-Identifier: Apache-2.0
"""What every manifest command does alike: shared flags, and errors as one line with exit code 2."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

from headrace_manifests.audio import Limits
from headrace_manifests.files import corpus_root
from headrace_manifests.quarantine import Tolerance
from headrace_manifests.scan import Scan


def run(main: Callable[[list[str] | None], None], arguments: list[str] | None = None) -> int:
    """Call a command's main; return its exit code: 0, 2 with one clear line, or 130 when interrupted."""
    try:
        main(arguments)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(
            f"error: {where}{error.strerror or error}. No file was left half-written; mend the cause and run "
            "the same command again: it goes on from where it was",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


def available_cpus() -> int:
    """CPUs that this process may use, which containers limit below `os.cpu_count`."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def parser_for(description: str | None) -> argparse.ArgumentParser:
    """Return a parser that shows a module's docstring as it is written."""
    return argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )


def add_scan_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags that `scan_from` reads."""
    parser.add_argument("root", metavar="ROOT", type=Path, help="root folder of the corpus")
    parser.add_argument("--dest", default=Path(), type=Path, metavar="DIR", help="output folder (here)")
    parser.add_argument(
        "--workers", default=available_cpus(), type=int, metavar="N", help="files decoded at a time (all CPUs)"
    )
    parser.add_argument(
        "--resume",
        default=True,
        action=argparse.BooleanOptionalAction,
        help="reuse what earlier runs measured (DIR/scan_cache.jsonl) of files that did not change (yes)",
    )
    parser.add_argument("--min-seconds", default=0.1, type=float, metavar="S", help="leave out shorter files (0.1)")
    parser.add_argument(
        "--max-seconds", default=None, type=float, metavar="S", help="leave out longer files (no limit)"
    )
    parser.add_argument(
        "--max-bad-percent",
        default=5.0,
        type=float,
        metavar="P",
        help="stop when more than this share of the corpus is bad; the limits above do not count (5)",
    )


def scan_from(options: argparse.Namespace) -> Scan:
    """Check the shared flags.

    Raises:
        ValueError: naming the flag, what came and what was expected.
    """
    if options.workers < 1:
        raise ValueError(f"--workers: expected 1 or more, got {options.workers}")
    if not 0 <= options.max_bad_percent <= 100:
        raise ValueError(f"--max-bad-percent: expected 0 to 100, got {options.max_bad_percent:g}")
    return Scan(
        root=corpus_root(options.root),
        dest=options.dest,
        limits=Limits(options.min_seconds, options.max_seconds),
        tolerance=Tolerance(options.max_bad_percent),
        workers=options.workers,
        resume=options.resume,
    )

#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Make the report of a run: report.json, report.html, and on request the table in RESULTS.md.

    python experiments/report.py runs/an4_emodb
    python experiments/report.py runs/an4_emodb --markdown RESULTS.md
    python experiments/report.py experiments/results/an4_emodb.json --markdown RESULTS.md

With --markdown the numbers are kept in experiments/results/EXPERIMENT.json too, and the table is made of them.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(CHECKOUT / folder) for folder in ("experiments", "stages", "pretrain", "downstream")]

from headrace_downstream.files import write_whole  # noqa: E402
from headrace_experiments import collect, report_file, results_file  # noqa: E402  (importable only from here on)
from headrace_experiments.page import page  # noqa: E402
from headrace_experiments.table import for_terminal  # noqa: E402
from headrace_stages.stage import RunFolder  # noqa: E402


def main(arguments: list[str] | None = None) -> int:
    """Make the report; 2 and one line for what the caller can mend."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, metavar="RUN|REPORT.JSON")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="put the table between its marks in this file")
    options = parser.parse_args(arguments)
    try:
        if options.source.is_dir():
            folder = RunFolder(options.source.resolve())
            report = collect.collect(folder)
            report_file.write(folder.root / report_file.NAME, report)
            write_whole(folder.root / "report.html", page(report))
        else:
            report = report_file.read(options.source)
        if options.markdown:
            results_file.write_table(options.markdown, report_file.read(results_file.store(report)))
    except (ValueError, OSError) as error:
        print(f"report.py: {error}", file=sys.stderr)
        return 2
    print(for_terminal(report, colour=sys.stdout.isatty()))
    return 0


if __name__ == "__main__":
    sys.exit(main())

# SPDX-License-Identifier: Apache-2.0
"""Put the stored results into RESULTS.md, between the marks of each file.

python benchmarks/table.py
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
PAGE = FOLDER.parent / "RESULTS.md"


def main() -> int:
    """Rewrite each marked part that has a results file."""
    text = PAGE.read_text(encoding="utf-8")
    for path in sorted((FOLDER / "results").glob("*.json")):
        results = json.loads(path.read_text())
        lines = attention(results) if path.stem.startswith("attention") else training(results)
        text = put(text, path.stem, [*lines, "", where(results, path.stem)])
    PAGE.write_text(text, encoding="utf-8")
    return 0


def put(text: str, name: str, lines: list[str]) -> str:
    """The page with ``lines`` between the marks of ``name``."""
    begin = f"<!-- begin {name}: made from benchmarks/results/{name}.json, do not edit -->"
    end = f"<!-- end {name} -->"
    found = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.S)
    if not found.search(text):
        raise SystemExit(
            f"RESULTS.md has no marks for {name}: put these two lines where the table belongs:\n{begin}\n{end}"
        )
    return found.sub(lambda _: "\n".join([begin, "", *lines, "", end]), text)


def attention(results: dict[str, Any]) -> list[str]:
    """Milliseconds and ratios, then the targets."""
    lines = ["| case | way | ms | slower than native |", "| --- | --- | --- | --- |"]
    for case in results["cases"]:
        own = case["median_ms"]["headrace, native"]
        lines += [f"| {case['case']} | {way} | {ms:.1f} | {ms / own:.1f} x |" for way, ms in case["median_ms"].items()]
    lines.append("")
    for case in results["cases"]:
        for target in case["targets"]:
            lines.append(
                f"- {sign(target['met'])}{case['case']}: {target['reached']:.1f} x faster than {target['against']}, "
                f"wanted {target['wanted']} x"
            )
    return lines


def training(results: dict[str, Any]) -> list[str]:
    """Milliseconds an update, then the targets."""
    lines = ["| case | mixer | ms an update |", "| --- | --- | --- |"]
    for case in results["cases"]:
        lines += [f"| {case['case']} | {way} | {ms:.0f} |" for way, ms in case["median_ms"].items()]
    lines.append("")
    for case in results["cases"]:
        lines.append(
            f"- {sign(case['met'])}{case['case']}: {case['top']} takes {case['reached']:.2f} x the time of "
            f"{case['bottom']}, at most {case['most']:.2f} x wanted"
        )
    return lines


def sign(met: bool) -> str:
    """Missed targets are seen at once."""
    return "" if met else "🔴 missed: "


def where(results: dict[str, Any], name: str) -> str:
    """The machine, the commit and the command."""
    m, repeats = results["machine"], results["repeats"]
    script = name.split("_")[0]
    return (
        f"{m['cpu']}, {m['threads']} threads, {m['instruction_set']}; torch {m['torch']}, Python {m['python']}; "
        f"medians of {repeats} interleaved runs; commit {m['commit']}; `python benchmarks/{script}.py`"
    )


if __name__ == "__main__":
    sys.exit(main())

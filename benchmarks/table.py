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
    for name, lines_of in TABLES.items():
        path = FOLDER / "results" / f"{name}.json"
        if path.exists():
            results = json.loads(path.read_text())
            text = put(text, name, [*lines_of(results), "", where(results, name)])
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


def heading(*columns: str) -> list[str]:
    """The first two lines of a table."""
    return [f"| {' | '.join(columns)} |", f"| {' | '.join('---' for _ in columns)} |"]


def attention(results: dict[str, Any]) -> list[str]:
    """Milliseconds and ratios, then the targets."""
    lines = heading("case", "way", "ms", "slower than native")
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
    lines = heading("case", "mixer", "ms an update")
    for case in results["cases"]:
        lines += [f"| {case['case']} | {way} | {ms:.0f} |" for way, ms in case["median_ms"].items()]
    lines.append("")
    for case in results["cases"]:
        lines.append(
            f"- {sign(case['met'])}{case['case']}: {case['top']} takes {case['reached']:.2f} x the time of "
            f"{case['bottom']}, at most {case['most']:.2f} x wanted"
        )
    return lines


def memory(results: dict[str, Any]) -> list[str]:
    """Megabytes, and the peak as a multiple of the inputs."""
    lines = heading("frames", "q, k and v, MB", "peak, MB", "multiple")
    lines += [
        f"| {case['frames']} | {case['inputs_mb']:.0f} | {case['peak_mb']:.0f} | "
        f"{sign(case['met'])}{case['ratio']:.2f} x, at most 3.5 x wanted |"
        for case in results["cases"]
    ]
    return lines


def kmeans(results: dict[str, Any]) -> list[str]:
    """Each way's medians, then the targets."""
    lines = heading("frames", "way", "seconds", "inertia a frame", "peak, GB")
    lines += [
        f"| {case['frames']} of {case['dim']} into {case['clusters']} | {way} | {case[way]['seconds']:.0f} | "
        f"{case[way]['inertia']:.5g} | {case[way]['bytes'] / 1e9:.2f} |"
        for case in results["cases"]
        for way in ("headrace", "fairseq")
    ]
    lines.append("")
    for case in results["cases"]:
        lines.append(
            f"- {sign(case['met'])}{case['share']:.2f} x fairseq's time, below 1 wanted; "
            f"{case['inertia_share']:.4f} x its inertia, at most 1.01; a peak of at most 3 GB"
        )
    return lines


def mixers(results: dict[str, Any]) -> list[str]:
    """Whole, live and an hour at once, each with its targets."""
    whole, live_part, long = results["cases"]
    lines = [*heading("whole, 30 s", "ms", "multiply-adds of a frame and layer, M", "parameters, M")]
    for way, ms in whole["median_ms"].items():
        counts = [whole[key].get(way) for key in ("multiply_adds", "parameters")]
        cells = ["" if count is None else f"{count / 1e6:.2f}" for count in counts]
        lines.append(f"| {way} | {ms:.0f} | {' | '.join(cells)} |")
    lines += ["", *heading("live, a tick of 640 ms", "ms", "state, kB")]
    lines += [
        f"| {way} | {ms:.1f} | {live_part['state_bytes'][way] / 1e3:.0f} |"
        for way, ms in live_part["median_ms"].items()
    ]
    lines += ["", *heading("at once", "minutes", "seconds", "peak, GB")]
    lines += [
        f"| {row['mixer']} | {row['minutes']} | {row['seconds']:.0f} | {row['bytes'] / 1e9:.1f} |"
        for row in long["rows"]
    ]
    lines.append("")
    for case in results["cases"]:
        for one in case["targets"]:
            reached = f"{one['reached']:.2f}, at least {one['least']:.2f} wanted"
            lines.append(f"- {sign(one['met'])}{one['what']}: {reached}")
    return lines


def live(results: dict[str, Any]) -> list[str]:
    """Each part's rows, then its target."""
    lines: list[str] = []
    for name, part in results["parts"].items():
        keys = list(part["rows"][0])
        shown = [key for key in keys if key not in ("met", "at_most")]
        lines += [f"**{name}**", "", *heading(*shown)]
        for row in part["rows"]:
            cells = [f"{row[key]:.3g}" if isinstance(row[key], float) else str(row[key]) for key in shown]
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
        for row in part["rows"]:
            if row.get("at_most") is not None:
                lines.append(
                    f"- {sign(row['met'])}{row['way']}: real-time factor {row['real_time_factor']:.2f}, at most "
                    f"{row['at_most']:.2f} wanted"
                )
        if "target" in part:
            target = part["target"]
            wanted = f"at least {target['at_least']}" if "at_least" in target else f"at most {target['at_most']}"
            lines.append(f"- {sign(target['met'])}{target['what']}: {target['reached']:.2f} x, {wanted} wanted")
        lines.append("")
    return lines[:-1]


def gpu(results: dict[str, Any]) -> list[str]:
    """Microseconds and shares of what memory allows, then the targets."""
    lines = heading("case", "way", "forward us", "of the limit", "backward us", "of the limit")
    for case in results["cases"]:
        for row in case["rows"]:
            if "skipped" in row:
                lines.append(f"| {case['case']} | {row['way']} | skipped: {row['skipped']} | | | |")
                continue
            shares = row["share_of_memory_limit"]
            times = [
                f"{row[key]:.0f} | {share:.0%}"
                for key, share in zip(("forward_us", "backward_us"), shares, strict=False)
            ]
            lines.append(f"| {case['case']} | {row['way']} | {times[0]} | {times[1]} |")
    lines.append("")
    for case in results["cases"]:
        for target in case["targets"]:
            wanted = (
                f"at most {target['at_most_us']} us"
                if "at_most_us" in target
                else f"faster than {target['faster_than']}"
            )
            reached = f"{target['reached_us']:.0f} us" if "reached_us" in target else f"{target['reached']:.1f} x"
            what = target["what"].removesuffix("_us")
            lines.append(f"- {sign(target['met'])}{case['case']} {what}: {reached}, wanted {wanted}")
    return lines


def sign(met: bool) -> str:
    """Missed targets are seen at once."""
    return "" if met else "🔴 missed: "


def where(results: dict[str, Any], name: str) -> str:
    """The machine, the commit and the command."""
    m, repeats = results["machine"], results["repeats"]
    script = name.split("_")[0]
    cpu = f"{m['cpu']}, {m['threads']} threads, {m['instruction_set']}"
    cpu += f", OMP_WAIT_POLICY={m['omp_wait_policy']}" if "omp_wait_policy" in m else ""
    return (
        f"{m['gpu'] if name == 'gpu' else cpu}; torch {m['torch']}, Python {m['python']}; "
        f"medians of {repeats} interleaved runs; commit {m['commit']}; `python benchmarks/{script}.py`"
    )


TABLES = {
    "attention_cpu": attention,
    "training_cpu": training,
    "memory_cpu": memory,
    "live_cpu": live,
    "kmeans_cpu": kmeans,
    "mixers_cpu": mixers,
    "gpu": gpu,
}

if __name__ == "__main__":
    sys.exit(main())

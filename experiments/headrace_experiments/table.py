# SPDX-License-Identifier: Apache-2.0
"""The table of a report: the same rows and columns for the terminal, for the page and for RESULTS.md."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from headrace_experiments.curve import BELOW_CHANCE_BITS, left_plateau

HEADLINES = {"asr": "wer", "emotion": "accuracy"}
COLUMNS = {
    "asr": (("wer", "WER %"), ("cer", "CER %")),
    "emotion": (("accuracy", "accuracy %"), ("unweighted_accuracy", "unweighted %")),
}
"""Per task: (key in score.json, heading). The first is the headline and comes with its interval."""
CERTIFIED = ("parameters, M", "waits ms, most / mean", "real-time factor")
"""Headings of what certificates say; the factor is live, of one thread, while the run's other job has a core."""
TASK_TITLES = {"asr": "ASR", "emotion": "emotion"}


@dataclass(frozen=True)
class Table:
    """Headings and rows of text; `main` is the number of the row that the experiment is about."""

    headings: list[str]
    rows: list[list[str]]
    main: int


def table(report: dict[str, Any]) -> Table:
    """Chance first, then the rows in the experiment's order."""
    headings = ["encoder", "look-ahead", *(CERTIFIED if is_certified(report) else ()), "updates"]
    for task in report["tasks"]:
        (_, headline), *others = COLUMNS[task]
        headings += [f"{headline} [95 %]", *(title for _, title in others)]
        headings += ["mean of folds"] if task == "emotion" else []
    rows = [_chance_row(report)] + [_row(report, row) for row in report["rows"]]
    names = [row["name"] for row in report["rows"]]
    return Table(headings, rows, 1 + names.index(report["main"]))


def _chance_row(report: dict[str, Any]) -> list[str]:
    cells = ["chance", "", *("" for _ in CERTIFIED if is_certified(report)), ""]
    for task, chance in report["chance"].items():
        cells += [f"{chance[key]:.1f}" for key, _ in COLUMNS[task]]
        cells += [""] if task == "emotion" else []
    return cells


def _row(report: dict[str, Any], row: dict[str, Any]) -> list[str]:
    cells = [row["title"], look_ahead(row), *(_certified(row) if is_certified(report) else ()), updates(report, row)]
    for task, found in row["scores"].items():
        (headline, _), *others = COLUMNS[task]
        cells += [with_interval(found["metrics"][headline])]
        cells += [f"{found['metrics'][key]['value']:.1f}" for key, _ in others]
        if task == "emotion":
            mean = found["mean_of_folds"]["accuracy"]
            cells += [f"{mean['value']:.1f} ± {mean['deviation']:.1f}"]
    return cells


def is_certified(report: dict[str, Any]) -> bool:
    """Whether the run certified its encoders."""
    return any("certificate" in (row["encoder"] or {}) for row in report["rows"])


def _certified(row: dict[str, Any]) -> list[str]:
    """Parameters, what frames wait for with their window, and the live speed."""
    encoder = row["encoder"]
    if encoder is None:
        return ["", "", ""]
    found = encoder["certificate"]
    wait = "whole utterance" if found["claimed_ms"] is None else f"{found['claimed_ms']:.0f} / {found['mean_ms']:.0f}"
    factor = "" if found["real_time_factor"] is None else f"{found['real_time_factor']:.3f}"
    return [f"{encoder['parameters'] / 1e6:.2f}", wait, factor]


def look_ahead(row: dict[str, Any]) -> str:
    """What a frame of the row waits for, in words."""
    encoder = row["encoder"]
    if encoder is None:
        return row["waits"]
    frames = encoder["look_ahead_frames"]
    return "whole utterance" if frames is None else f"{frames} frames, {encoder['look_ahead_ms']:.0f} ms"


def updates(report: dict[str, Any], row: dict[str, Any]) -> str:
    """Updates of pretraining behind a row."""
    source = row["pretrained"]
    return str(report["pretraining"][source]["updates"]) if source else "0" if row["encoder"] else ""


def with_interval(metric: dict[str, Any]) -> str:
    """`12.3 [11.0, 13.9]`, the interval by speaker."""
    interval = metric["interval_by_speaker"]
    return f"{metric['value']:.1f} [{interval['low']:.1f}, {interval['high']:.1f}]"


@dataclass(frozen=True)
class Finding:
    """One comparison, or what a run took of its budget, in words."""

    text: str
    is_win: bool


def findings(report: dict[str, Any]) -> list[Finding]:
    """What each comparison says, in the order of the tasks."""
    titles = {row["name"]: row["title"] for row in report["rows"]}
    found = [_finding(comparison, titles) for comparison in report["comparisons"]]
    labels = {name: one.get("labels", []) for name, one in report["pretraining"].items()}
    return found + [_iteration(name, *pair) for name, of in labels.items() for pair in pairwise(of)]


def _finding(comparison: dict[str, Any], titles: dict[str, str]) -> Finding:
    task, value = comparison["task"], comparison["difference"]["value"]
    interval = comparison["difference"]["interval_by_speaker"]
    name = dict(COLUMNS[task])[comparison["metric"]].removesuffix(" %")
    words = {
        "wins": "beats",
        "ahead": "is ahead of, but not shown to beat,",
        "behind": "does not beat",
    }[comparison["verdict"]]
    by = f"{name} {value:+.1f} points [{interval['low']:+.1f}, {interval['high']:+.1f}]"
    text = f"{TASK_TITLES[task]}: {titles[comparison['row']]} {words} {titles[comparison['other']]}: {by}"
    return Finding(text, comparison["verdict"] == "wins")


def _iteration(name: str, before: dict[str, Any], after: dict[str, Any]) -> Finding:
    """Whether an iteration's labels tell more of the characters than those before, also above what chance tells."""
    is_more = all(tell(after) > tell(before) for tell in (lambda one: one["share"], _above_chance))
    words = "tell more" if is_more else "are not shown to tell more"
    both = "; then ".join(_told(one) for one in (before, after))
    return Finding(f"labels of {name} {words} of the characters with the next iteration: {both}", is_more)


def _above_chance(one: dict[str, Any]) -> float:
    return one["share"] - one["chance"]


def _told(one: dict[str, Any]) -> str:
    """What an iteration's labels tell, in words."""
    what = f"{one['num_clusters']} clusters of {one['features']}"
    return f"{what} {100 * one['share']:.2f} % ({100 * one['chance']:.2f} % by chance)"


def budget(report: dict[str, Any]) -> Finding:
    """What the run took of its budget, all starts together; up to the page itself on the page."""
    minutes, seconds = f"{report['budget_minutes']:g} minutes", report["made"].get("wall_seconds")
    if seconds is None:
        return Finding(f"budget {minutes}; what it took was not kept", False)
    is_within = seconds <= 60 * report["budget_minutes"]
    return Finding(f"took {seconds / 60:.1f} of {minutes}{'' if is_within else ': over its budget'}", is_within)


def facts(report: dict[str, Any]) -> list[str]:
    """Corpora, budget, seeds, machine, commit and command: what stands beside the numbers."""
    made = report["made"]
    return [
        *_corpora(report["corpora"]),
        *(tell(name, one) for name, one in report["pretraining"].items() for tell in (_pretraining, _learned)),
        *(_head(name, task) for name, task in report["tasks"].items()),
        *(f"{row['title']}: {_upstreams(row)}" for row in report["rows"] if row["upstream"]),
        f"{made['machine']}; {made['jobs']} jobs of {made['threads']} threads; "
        f"stages took {made['seconds_of_stages'] / 60:.1f} min ({made['processor_seconds_of_stages'] / 60:.1f} of CPU)",
        made["versions"],
        f"commit {', '.join(made['commits'])}; {made['date']}; {made['command']}",
    ]


def _corpora(corpora: dict[str, Any]) -> list[str]:
    emotion = corpora["emotion"]
    spoken = [
        f"{role} {s['minutes']:.1f} min, {s['utterances']} utterances, {s['speakers']} speakers"
        for role, s in corpora["asr"]["splits"].items()
    ]
    classes = ", ".join(f"{number} {label}" for label, number in emotion["classes"].items())
    return [
        f"ASR: {corpora['asr']['name']}: {'; '.join(spoken)}",
        f"emotion: {emotion['name']}: {emotion['utterances']} utterances ({classes}), five folds by session",
        "pretraining hears, without labels, ASR's train split and all of the emotion corpus: "
        f"{corpora['pretraining']['minutes']:.1f} min",
    ]


def _pretraining(name: str, one: dict[str, Any]) -> str:
    config = " ".join([one["config"], *one["overrides"]])
    time = f"{one['updates']} updates in {one['seconds'] / 60:.1f} min"
    return f"pretraining {name}: {config}, seed {one['seed']}, {time}"


def _learned(name: str, one: dict[str, Any]) -> str:
    """What a pretraining's curve says: when it left chance behind, and where it ended."""
    points, chance_bits = one["curve"], one.get("chance_bits")
    if not points:
        return f"pretraining {name}: no training curve"
    said = []
    if chance_bits is not None:
        left = left_plateau(points, chance_bits)
        when = f"first at update {left:.0f}" if left else "never"
        said.append(f"{BELOW_CHANCE_BITS:g} bits below uniform guessing ({chance_bits:.2f} bits) {when}")
    last = points[-1]
    numbers = {
        "contrastive_loss_bits": lambda bits: f"{bits:.2f} bits",
        "accuracy": lambda share: f"accuracy {100 * share:.1f} %",
        "code_perplexity": lambda codes: f"code perplexity {codes:.0f}",
        "masked_accuracy": lambda share: f"clusters of masked frames named {100 * share:.1f} %",
        "heard_accuracy": lambda share: f"of heard ones {100 * share:.1f} %",
    }
    end = ", ".join(tell(last[key]) for key, tell in numbers.items() if key in last)
    said.append(f"{end} at update {last['updates']:.0f}")
    if one.get("labels"):
        said.append("its labels tell of the characters: " + "; ".join(_told(part) for part in one["labels"]))
    what = "training" if chance_bits is None else "contrastive training loss"
    return f"{what} of {name}: {'; '.join(said)}"


def _head(name: str, task: dict[str, Any]) -> str:
    config = " ".join([task["config"], *task["flags"]])
    return f"{TASK_TITLES[name]} head: {config}, {task['steps']} steps, seed {task['seed']}"


def _upstreams(row: dict[str, Any]) -> str:
    return ", ".join(f"s3prl's {upstream} for {TASK_TITLES[task]}" for task, upstream in row["upstream"].items())


# ---- as text ----

RED, PLAIN = "\x1b[31m", "\x1b[0m"


def for_terminal(report: dict[str, Any], colour: bool) -> str:
    """The table, the findings and the warnings; what is no win is red."""
    t = table(report)
    widths = [max(len(row[column]) for row in [t.headings, *t.rows]) for column in range(len(t.headings))]
    lines = [report["title"], "", _padded(t.headings, widths), "  ".join("-" * width for width in widths)]
    lines += [_padded(row, widths) for row in t.rows]
    lines += [""]
    for finding in findings(report):
        red = colour and not finding.is_win
        lines.append(f"{RED if red else ''}{'+' if finding.is_win else '!'} {finding.text}{PLAIN if red else ''}")
    lines += [f"warning: {warning}" for warning in report["warnings"]]
    took = budget(report)
    lines.append(f"{RED}{took.text}{PLAIN}" if colour and not took.is_win else took.text)
    return "\n".join(lines)


def _padded(cells: list[str], widths: list[int]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()


def for_markdown(report: dict[str, Any]) -> str:
    """The table, the findings, the notes and the facts, for RESULTS.md."""
    t = table(report)
    lines = [f"**{report['title']}**", "", _cells(t.headings), _cells(["---"] * len(t.headings))]
    for number, row in enumerate(t.rows):
        lines.append(_cells([f"**{cell}**" if number == t.main and cell else cell for cell in row]))
    if is_certified(report):
        lines += ["", f"![Word error rate against what frames wait for]({picture_path(report)})"]
    lines += ["", *(f"- {'' if finding.is_win else '🔴 '}{finding.text}" for finding in findings(report))]
    lines += [f"- warning: {warning}" for warning in report["warnings"]]
    took = budget(report)
    lines.append(f"- {'' if took.is_win else '🔴 '}{took.text}")
    lines += ["", *report["notes"], "", *(f"- {fact}" for fact in facts(report))]
    return "\n".join(lines)


def picture_path(report: dict[str, Any]) -> str:
    """Where the picture of error rates against waits lies, from RESULTS.md."""
    return f"experiments/results/{report['experiment']}.svg"


def _cells(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"

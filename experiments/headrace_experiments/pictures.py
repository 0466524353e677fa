# SPDX-License-Identifier: Apache-2.0
"""The pictures of a report, each as one SVG text to be put into the page."""

from __future__ import annotations

import io
from typing import Any

import matplotlib

matplotlib.use("svg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from headrace import EncoderConfig
from headrace.reach import mask
from headrace_experiments.reference import reference_curve
from headrace_experiments.table import COLUMNS, HEADLINES, TASK_TITLES

MAIN, OTHER, GREY, BAD = "#0b6e99", "#9db7c4", "#888888", "#c0392b"
LINES = (MAIN, BAD, GREY, "#c98a1b")
FRAMES_SHOWN = 96
STYLE = {
    "svg.hashsalt": "headrace",
    "svg.fonttype": "path",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def as_svg(figure: Figure) -> str:
    """The figure as an <svg> element; the same figure gives the same text."""
    text = io.StringIO()
    figure.savefig(text, format="svg", bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)
    return text.getvalue()[text.getvalue().index("<svg") :]


def training_curves(report: dict[str, Any]) -> str:
    """What was logged over updates, one line per pretraining; behind it, wide and pale, its recipe's stored run."""
    known = {
        "contrastive_loss_bits": "contrastive loss, bits",
        "accuracy": "masked frames told from distractors",
        "code_perplexity": "code perplexity",
        "masked_accuracy": "clusters of masked frames named",
        "heard_accuracy": "clusters of heard frames named",
    }
    behind = {name: reference_curve(one) for name, one in report["pretraining"].items()}
    logged = {key for one in report["pretraining"].values() for point in one["curve"] for key in point}
    panels = {key: title for key, title in known.items() if key in logged} or {"loss_bits": "loss, bits"}
    with plt.rc_context(STYLE):
        size = (3.4 * len(panels), 2.6)
        figure, rows = plt.subplots(1, len(panels), figsize=size, constrained_layout=True, squeeze=False)
        for axis, (key, title) in zip(rows[0], panels.items(), strict=True):
            for number, (name, one) in enumerate(report["pretraining"].items()):
                colour = LINES[number % len(LINES)]
                _line(axis, one["curve"], key, color=colour, label=name, marker=".")
                _line(axis, behind[name], key, color=colour, alpha=0.25, linewidth=5, label=f"{name}, stored run")
            axis.set_title(title, fontsize=9)
            axis.set_xlabel("updates")
            if axis.lines:
                axis.legend(frameon=False)
        return as_svg(figure)


def _line(axis: Axes, curve: list[dict[str, float]], key: str, **look: Any) -> None:
    """One number over updates; nothing where it was not logged."""
    points = [(point["updates"], point[key]) for point in curve if key in point]
    if points:
        axis.plot(*zip(*points, strict=True), **look)


def scores(report: dict[str, Any], task: str) -> str:
    """The headline of each row with its 95 % interval, and chance as a line."""
    key = HEADLINES[task]
    rows = report["rows"][::-1]
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(5, 0.5 + 0.42 * len(rows)))
        for place, row in enumerate(rows):
            metric = row["scores"][task]["metrics"][key]
            value, interval = metric["value"], metric["interval_by_speaker"]
            axis.barh(place, value, color=MAIN if row["name"] == report["main"] else OTHER, height=0.62)
            # a bootstrap interval need not hold the score itself
            reach = [[max(0.0, value - interval["low"])], [max(0.0, interval["high"] - value)]]
            axis.errorbar(value, place, xerr=reach, color="black", capsize=3, linewidth=1)
            axis.text(1, place, f"{value:.1f}", va="center", color="white", fontsize=8)
        axis.axvline(report["chance"][task][key], color=BAD, linestyle="--", linewidth=1, label="chance")
        axis.set_yticks(range(len(rows)), [row["title"] for row in rows])
        axis.set_xlim(0, max(105, axis.get_xlim()[1]))
        better = "lower" if task == "asr" else "higher"
        axis.set_xlabel(f"{TASK_TITLES[task]}: {dict(COLUMNS[task])[key]}, {better} is better; bars: 95 % by speaker")
        axis.legend(frameon=False, loc="upper right", bbox_to_anchor=(1, 1.18))
        return as_svg(figure)


def error_against_wait(report: dict[str, Any]) -> str:
    """Word error rate of each encoder over what its frames wait for, at most; a line leads to the mean.

    Those that wait for the whole utterance stand at the right edge.
    """
    rows = [row for row in report["rows"] if row["encoder"] and row["pretrained"] and "asr" in row["scores"]]
    waits = [row["encoder"]["certificate"]["claimed_ms"] for row in rows]
    edge = 1.25 * max([wait for wait in waits if wait is not None], default=100.0)
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(6.5, 3.6))
        for row, wait in zip(rows, waits, strict=True):
            metric, certificate = row["scores"]["asr"]["metrics"][HEADLINES["asr"]], row["encoder"]["certificate"]
            value, interval = metric["value"], metric["interval_by_speaker"]
            place = edge if wait is None else wait
            reach = [[max(0.0, value - interval["low"])], [max(0.0, interval["high"] - value)]]
            colour = MAIN if row["name"] == report["main"] else GREY
            axis.errorbar(place, value, yerr=reach, fmt="o", color=colour, capsize=3, linewidth=1)
            if wait is not None:
                axis.plot([certificate["mean_ms"], wait], [value, value], color=colour, linewidth=1, alpha=0.5)
            axis.annotate(row["title"], (place, value), xytext=(5, 4), textcoords="offset points", fontsize=8)
        axis.axvline(edge, color=OTHER, linestyle=":", linewidth=1)
        axis.text(edge, axis.get_ylim()[1], "whole utterance", ha="right", va="bottom", fontsize=8, color=GREY)
        axis.set_xlim(left=0)
        axis.set_xlabel("a frame waits, ms: at most (dot), on average (other end of the line)")
        axis.set_ylabel("WER %, 95 % by speaker")
        return as_svg(figure)


def confusion(report: dict[str, Any]) -> str | None:
    """Which class was taken for which by the main row; None where emotion was not scored."""
    row = next(row for row in report["rows"] if row["name"] == report["main"])
    found = row["scores"].get("emotion", {}).get("confusion")
    if found is None:
        return None
    labels, counts = found["labels"], found["counts"]
    with plt.rc_context(STYLE | {"axes.spines.left": False, "axes.spines.bottom": False}):
        figure, axis = plt.subplots(figsize=(3.2, 3.2))
        shares = [[number / max(sum(line), 1) for number in line] for line in counts]
        axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        for y, line in enumerate(counts):
            for x, number in enumerate(line):
                axis.text(x, y, str(number), ha="center", va="center", color="white" if shares[y][x] > 0.5 else "black")
        axis.set_xticks(range(len(labels)), labels)
        axis.set_yticks(range(len(labels)), labels)
        axis.set_xlabel("was taken for")
        axis.set_ylabel("is")
        axis.set_title(f"{row['title']}: utterances, all five folds", fontsize=9)
        return as_svg(figure)


def who_sees_whom(report: dict[str, Any]) -> str:
    """For each encoder, which input frames (across) each output frame (down) depends on, through the whole stack."""
    rows = [row for row in report["rows"] if row["encoder"]]
    configs: dict[str, EncoderConfig] = {}
    for row in rows:
        config = EncoderConfig.from_dict(row["encoder"]["config"])
        titles = [title for title, other in configs.items() if other.stack == config.stack]
        configs[row["title"]] = config
        for title in titles:  # the twin sees what its pretrained encoder sees: one picture for both
            configs[f"{title}, {row['title']}"] = config
            del configs[title], configs[row["title"]]
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, len(configs), figsize=(3.0 * len(configs), 3.0), squeeze=False)
        for axis, (title, config) in zip(axes[0], configs.items(), strict=True):
            _draw_reach(axis, title, config)
        return as_svg(figure)


def _draw_reach(axis: Axes, title: str, config: EncoderConfig) -> None:
    through = mask(config.stack, FRAMES_SHOWN).int()
    once = mask(config.stack_under(config.reaches[:1]), FRAMES_SHOWN).int()
    axis.imshow((through + once).numpy(), cmap="Blues", vmin=0, vmax=3)
    axis.plot([0, FRAMES_SHOWN - 1], [0, FRAMES_SHOWN - 1], color="black", linewidth=0.6)
    axis.set_title(f"{title}\n{config.mixer}, {config.num_layers} layers", fontsize=8)
    axis.set_xlabel("input frame; dark: by one layer, light: by all")
    axis.set_ylabel("output frame")

# SPDX-License-Identifier: Apache-2.0
"""report.html: one file that needs nothing else, made of report.json alone."""

from __future__ import annotations

from html import escape
from typing import Any

from headrace.durations import clock
from headrace_experiments import pictures
from headrace_experiments.table import TASK_TITLES, budget, facts, findings, is_certified, table

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
table { border-collapse: collapse; } th, td { padding: .3rem .8rem; text-align: left; border-bottom: 1px solid #ddd; }
tr.main td { font-weight: bold; background: #eef6fa; } td.number { font-variant-numeric: tabular-nums; }
.bad { color: #c0392b; font-weight: bold; } .good { color: #1e7d3c; } .small { color: #555; font-size: .88rem; }
code { background: #f4f4f4; padding: 0 .2rem; word-break: break-all; } svg { max-width: 100%; height: auto; }
.side { display: flex; flex-wrap: wrap; gap: 1.5rem; align-items: flex-start; }
"""


def page(report: dict[str, Any]) -> str:
    """The whole page."""
    drawn = [pictures.scores(report, task) for task in report["tasks"]]
    confusion = pictures.confusion(report)
    parts = [
        f"<h1>{escape(report['title'])}</h1>",
        *(f"<p>{escape(note)}</p>" for note in report["notes"]),
        _table(report),
        _findings(report),
        _budget(report),
        f"<h2>Scores</h2><div class=side>{''.join(drawn)}</div>",
        f"<h2>Error against wait</h2>{pictures.error_against_wait(report)}" if is_certified(report) else "",
        f"<h2>Confusion matrix ({TASK_TITLES['emotion']})</h2>{confusion}" if confusion else "",
        f"<h2>Training curve</h2>{pictures.training_curves(report)}" if report["pretraining"] else "",
        f"<h2>Who sees whom</h2>{pictures.who_sees_whom(report)}" if any(r["encoder"] for r in report["rows"]) else "",
        "<h2>What it was made of</h2><ul>" + "".join(f"<li>{escape(fact)}</li>" for fact in facts(report)) + "</ul>",
        _stages(report),
    ]
    head = f'<meta charset="utf-8"><title>{escape(report["title"])}</title><style>{STYLE}</style>'
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>\n' + "\n".join(parts) + "\n</body></html>\n"


def _table(report: dict[str, Any]) -> str:
    t = table(report)
    heads = "".join(f"<th>{escape(heading)}</th>" for heading in t.headings)
    rows = []
    for number, cells in enumerate(t.rows):
        row = "".join(f"<td class=number>{escape(cell)}</td>" for cell in cells)
        rows.append(f"<tr{' class=main' if number == t.main else ''}>{row}</tr>")
    return f"<table><tr>{heads}</tr>{''.join(rows)}</table>"


def _findings(report: dict[str, Any]) -> str:
    lines = [f'<li class="{"good" if one.is_win else "bad"}">{escape(one.text)}</li>' for one in findings(report)]
    lines += [f"<li class=small>warning: {escape(warning)}</li>" for warning in report["warnings"]]
    how = "Differences are paired: both encoders are scored on the same draws of speakers; 95 % intervals."
    return f"<ul>{''.join(lines)}</ul><p class=small>{how} Red: the pretrained encoder is not shown to win.</p>"


def _budget(report: dict[str, Any]) -> str:
    took = budget(report)
    return f'<p class="{"good" if took.is_win else "bad"}">{escape(took.text)}</p>'


def _stages(report: dict[str, Any]) -> str:
    rows = [
        f"<tr><td>{escape(one['name'])}</td><td class=number>{clock(one['seconds'])}</td>"
        f"<td class=number>{clock(one['processor_seconds'])}</td><td>{one['attempts']}</td>"
        f"<td>{escape(one['commit'])}</td><td><code>{escape(one['command'])}</code></td></tr>"
        for one in report["stages"]
    ]
    heads = "<tr><th>stage</th><th>time</th><th>processor</th><th>attempts</th><th>commit</th><th>command</th></tr>"
    inside = f"<summary>commands and times</summary><table class=small>{heads}{''.join(rows)}</table>"
    return f"<h2>Stages</h2><details>{inside}</details>"

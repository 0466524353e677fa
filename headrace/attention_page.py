# SPDX-License-Identifier: Apache-2.0
"""Attention maps as people read them: lines of text, and a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from headrace.attention_map import LayerMap, even_shares
from headrace.attention_report import AttentionReport
from headrace.reach import Blocks

# The paper shows mean maps; the number is what a digest of it expects of its attention in chunks of 640 ms.
PAPER, PAPER_CHUNK, PAPER_WITHIN, PAPER_SHARE = "2601.19960", 16, 5, 0.8


def lines(report: AttentionReport) -> list[str]:
    """The table that ``headrace attention`` prints."""
    config, within = report.config, report.within
    cut = f" ({report.num_cut} cut to {report.most_seconds:g} s)" if report.num_cut else ""
    text = [
        f"{config.mixer}, {config.num_layers} layers, one frame every {report.frame_ms:g} ms; {report.num_files} "
        f"files{cut}, {report.num_frames} frames",
        "",
        f"attention within ±{within} frames (±{within * report.frame_ms:g} ms) of the frame that looks; mean of heads",
        f"  {'layer':10} {'share':>8} {'equal weights':>14} {'half within':>12} {'90 % within':>12}",
        *(_row(layer, within) for layer in report.layers),
    ]
    mean, even = (
        sum(each) / len(report.layers)
        for each in zip(*((x.shares[within], x.even_shares[within]) for x in report.layers), strict=True)
    )
    text.append(f"  {'mean':10} {mean:>8.1%} {even:>14.1%}")
    if within == PAPER_WITHIN:
        paper_even = even_shares(Blocks(0, 0, PAPER_CHUNK, per_block=True), PAPER_CHUNK)[within]
        text += [
            f"  {PAPER:10} {f'> {PAPER_SHARE:.0%}':>8} {paper_even:>14.1%}",
            "",
            f"{PAPER}: what a digest of arXiv {PAPER} expects of chunks of 640 ms, {PAPER_CHUNK} frames of 40 ms",
        ]
    return text


def _row(layer: LayerMap, within: int) -> str:
    half, most = (_frames_for(layer.shares, share) for share in (0.5, 0.9))
    return f"  {layer.layer:<10} {layer.shares[within]:>8.1%} {layer.even_shares[within]:>14.1%} {half:>12} {most:>12}"


def _frames_for(shares: list[float], wanted: float) -> str:
    """How far from the diagonal one must go for so much attention."""
    k = next((k for k, share in enumerate(shares) if share >= wanted), None)
    return f"> ±{len(shares) - 1}" if k is None else f"±{k}"


def draw(report: AttentionReport, path: Path) -> None:
    """The mean map of each layer, and the share by distance of all.

    Of blocks of several frames: a row for each frame of a block, over the keys counted from the block's start. Else the
    mean weight by offset.

    Raises:
        ValueError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise ValueError("a picture needs matplotlib: pip install 'headrace[plot]'.") from None
    columns = min(4, len(report.layers) + 1)
    height = -(-(len(report.layers) + 1) // columns)
    figure = Figure(figsize=(3.2 * columns, 2.8 * height), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(height, columns, squeeze=False).flatten().tolist()
    for axes, layer in zip(panels, report.layers, strict=False):
        axes.set_title(f"layer {layer.layer}: {layer.shares[report.within]:.0%} within ±{report.within}", fontsize=9)
        if len(layer.rows) > 1:
            _draw_block(axes, layer)
        else:
            _draw_offsets(axes, layer)
    _draw_shares(panels[len(report.layers)], report)
    for axes in panels[len(report.layers) + 1 :]:
        axes.set_axis_off()
    figure.savefig(path, dpi=120)


def block_map(layer: LayerMap) -> tuple[int, list[list[float]]]:
    """A block's rows over keys counted from the block's start: the first key, and a list of weights for each row."""
    hop = len(layer.rows)
    return layer.first_offset, [[0.0] * r + row + [0.0] * (hop - 1 - r) for r, row in enumerate(layer.rows)]


def _draw_block(axes: Any, layer: LayerMap) -> None:
    first, rows = block_map(layer)
    seen = [i for i in range(len(rows[0])) if any(row[i] for row in rows)]
    low, high = seen[0], seen[-1] + 1
    extent = (first + low - 0.5, first + high - 0.5, len(rows) - 0.5, -0.5)
    axes.imshow([row[low:high] for row in rows], aspect="auto", vmin=0, extent=extent, interpolation="nearest")
    axes.yaxis.get_major_locator().set_params(integer=True)
    axes.set_xlabel("key, frames from the block's start", fontsize=8)
    axes.set_ylabel("query in the block", fontsize=8)


def _draw_offsets(axes: Any, layer: LayerMap) -> None:
    offsets = [layer.first_offset + i for i in range(len(layer.by_offset))]
    axes.fill_between(offsets, layer.by_offset, step="mid", color="#1f77b4", alpha=0.6)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("key - query, frames", fontsize=8)
    axes.set_ylabel("mean weight", fontsize=8)


def _draw_shares(axes: Any, report: AttentionReport) -> None:
    for layer in report.layers:
        colour = (0.12, 0.47, 0.71, 0.3 + 0.7 * layer.layer / len(report.layers))
        axes.plot(range(len(layer.shares)), layer.shares, color=colour, linewidth=1)
    axes.plot([], [], color=(0.12, 0.47, 0.71), label="layers, the last darkest")
    even = report.layers[-1].even_shares
    axes.plot(range(len(even)), even, "--", color="#d62728", linewidth=1, label="equal weights")
    axes.axvline(report.within, color="0.6", linewidth=0.8)
    axes.set_title("share within ±k frames", fontsize=9)
    axes.set_xlabel("k, frames", fontsize=8)
    axes.set_ylim(0, 1.02)
    axes.legend(fontsize=7)

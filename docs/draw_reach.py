# SPDX-License-Identifier: Apache-2.0
"""Draw docs/reach.svg: which input frames one output frame waits for, layer by layer, under sa and llsa.

Run: .venv/bin/python docs/draw_reach.py
"""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt

from headrace import Band, Blocks
from headrace.reach import Reach, Stack

LAYERS, LOOK_AHEAD, LOOK_BACK, FRAME, FRAMES = 6, 2, 3, 20, 36
PAST, NOW, FUTURE = "#4c78a8", "#222222", "#e45756"


def draw(axes: plt.Axes, reach: Reach, title: str) -> None:
    """One square a frame and layer: what frame FRAME of the top layer depends on."""
    for depth in range(LAYERS + 1):
        stack = Stack((reach,) * (LAYERS - depth))
        first, last = stack.first(FRAME), stack.last(FRAME)
        assert last is not None
        for frame in range(FRAMES):
            seen = first <= frame <= last
            color = (NOW if frame == FRAME else FUTURE if frame > FRAME else PAST) if seen else "#eeeeee"
            axes.add_patch(plt.Rectangle((frame + 0.08, depth + 0.08), 0.84, 0.84, color=color, linewidth=0))
    ahead = Stack((reach,) * LAYERS).last(FRAME)
    assert ahead is not None
    axes.set(xlim=(0, FRAMES), ylim=(0, LAYERS + 1), xticks=[])
    axes.set_yticks([0.5, LAYERS + 0.5], ["input", "output"])
    axes.set_title(f"{title}: the output frame waits for {ahead - FRAME} frames", fontsize=10, loc="left")
    axes.set_aspect("equal")
    for side in axes.spines.values():
        side.set_visible(False)


def main() -> None:
    """Write reach.svg beside this file."""
    plt.rcParams["svg.hashsalt"] = "headrace"  # the same bytes each time
    figure, (top, bottom) = plt.subplots(2, 1, figsize=(8, 4.2), layout="constrained")
    draw(top, Band(LOOK_AHEAD, LOOK_BACK), f"sa, look-ahead {LOOK_AHEAD}, {LAYERS} layers")
    draw(bottom, Blocks(LOOK_AHEAD, LOOK_BACK), f"llsa, look-ahead {LOOK_AHEAD}, {LAYERS} layers")
    figure.savefig(Path(__file__).with_name("reach.svg"), metadata={"Date": None})


if __name__ == "__main__":
    main()

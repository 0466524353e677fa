# SPDX-License-Identifier: Apache-2.0
"""Covering arrays: few cases in which every pair of values of any two parameters occurs."""

from __future__ import annotations

import random
from itertools import combinations
from typing import Any


def covering_array(parameters: dict[str, list[Any]], seed: int = 0, candidates: int = 40) -> list[dict[str, Any]]:
    """Greedy: of some random cases around an uncovered pair, take the one that covers most, until none is left."""
    draw = random.Random(seed)
    names = list(parameters)
    missing = {
        ((a, i), (b, j))
        for a, b in combinations(names, 2)
        for i in range(len(parameters[a]))
        for j in range(len(parameters[b]))
    }
    cases = []
    while missing:
        around = sorted(missing)
        best: tuple[int, dict[str, int]] = (-1, {})
        for _ in range(candidates):
            case = {name: draw.randrange(len(parameters[name])) for name in names}
            case.update(draw.choice(around))
            best = max(best, (len(_pairs(case) & missing), case), key=lambda x: x[0])
        missing -= _pairs(best[1])
        cases.append({name: parameters[name][i] for name, i in best[1].items()})
    return cases


def _pairs(case: dict[str, int]) -> set[tuple[tuple[str, int], tuple[str, int]]]:
    return set(combinations(case.items(), 2))

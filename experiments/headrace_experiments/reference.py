# SPDX-License-Identifier: Apache-2.0
"""What a healthy run of the same recipe looked like: curves of stored reports, drawn behind those of a new run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from headrace_experiments import report_file
from headrace_experiments.report_file import STORE

SAME = ("config", "overrides")
"""What two pretrainings have to share for one to be the other's reference; seed and corpus may differ."""


def reference_curve(pretraining: Mapping[str, Any], folder: Path = STORE) -> list[dict[str, float]]:
    """Points of the stored run of the same recipe; none where there is no other, or it is this very run."""
    for path in sorted(folder.glob("*.json")):
        for stored in report_file.read(path)["pretraining"].values():
            if all(stored[key] == pretraining[key] for key in SAME):
                return [] if stored["curve"] == pretraining["curve"] else stored["curve"]
    return []

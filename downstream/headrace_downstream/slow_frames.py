# SPDX-License-Identifier: Apache-2.0
"""Frames that are slower than an ASR head wants them stay as they are.

`total_rate` of s3prl's ASR heads (samples a frame) stacks faster frames. For slower ones, those of log-mel encoders at
640 samples under 320, s3prl computes a stack of 0 frames, and building the head fails.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from headrace_downstream.replace import replaced

AS_THEY_ARE = -1  # s3prl's total_rate for: no stacking


@contextmanager
def slow_frames_stay() -> Iterator[None]:
    """Within the block, s3prl builds ASR heads so."""
    expert = importlib.import_module("s3prl.downstream.asr.expert").DownstreamExpert
    built = expert.__init__

    def init(
        self: Any, upstream_dim: int, upstream_rate: int, downstream_expert: dict[str, Any], *args: Any, **kwargs: Any
    ) -> None:
        built(self, upstream_dim, upstream_rate, _stacking_nothing(downstream_expert, upstream_rate), *args, **kwargs)

    with replaced(expert, "__init__", init):
        yield


def _stacking_nothing(downstream_expert: dict[str, Any], upstream_rate: int) -> dict[str, Any]:
    model = downstream_expert["modelrc"]
    selected = model[model["select"]]
    if not 0 < selected.get("total_rate", upstream_rate) < upstream_rate:
        return downstream_expert
    return {**downstream_expert, "modelrc": {**model, model["select"]: {**selected, "total_rate": AS_THEY_ARE}}}

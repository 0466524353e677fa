# SPDX-License-Identifier: Apache-2.0
"""Every CUDA kernel once on small shapes, for compute-sanitizer: borders, padding, odd features, bias, lengths, ticks.

compute-sanitizer --tool memcheck python benchmarks/small_shapes.py
"""

from __future__ import annotations

import sys

import torch

from headrace import ops
from headrace.ops.layout import num_blocks
from headrace.reach import Band, Blocks

REACHES = [Band(3, 9), Band(0, None), Blocks(3, 9), Blocks(2, 5, 4), Blocks(2, 30, 70)]
TYPES = [torch.float32, torch.float16, torch.bfloat16]
FEATURES = [20, 64, 80, 128]


def main() -> int:
    """Run them; what they give is checked by the tests."""
    for dtype in TYPES:
        for reach in REACHES:
            for features in FEATURES:
                attend(reach, features, dtype)
            if reach.look_back is not None:
                tick(reach, dtype)
    torch.cuda.synchronize()
    print("every kernel has run")
    return 0


def attend(reach: Band | Blocks, features: int, dtype: torch.dtype) -> None:
    """Forward and backward, with ragged lengths and, where it can be, a bias."""
    frames = 70
    shape = (2, 2, frames, features)
    if isinstance(reach, Blocks):
        shape = (2, 2, num_blocks(frames, reach), reach.rows, features)
    q, k, v = (torch.randn(shape, device="cuda", dtype=dtype, requires_grad=True) for _ in range(3))
    bias = None
    if reach.look_back is not None:
        lowest, highest = reach.offsets()
        bias = torch.randn(2, highest - lowest + 1, device="cuda", requires_grad=True)
    op = ops.sa if isinstance(reach, Band) else ops.llsa
    with ops.backend("native"):
        y = op(q, k, v, reach, torch.tensor([frames - 3, 1], device="cuda"), bias)
    y.backward(torch.randn_like(y))


def tick(reach: Band | Blocks, dtype: torch.dtype) -> None:
    """Three ticks of two streams."""
    rows = 4 if isinstance(reach, Band) else reach.rows
    assert reach.look_back is not None
    frames = reach.look_back + (reach.look_ahead + rows if isinstance(reach, Band) else reach.hop)
    rings = [torch.zeros(3, 2, frames, 40, device="cuda", dtype=dtype) for _ in range(2)]
    positions, slots = torch.zeros(3, dtype=torch.int64, device="cuda"), torch.tensor([2, 0], device="cuda")
    step = ops.sa_step if isinstance(reach, Band) else ops.llsa_step
    for _ in range(3):
        q, k, v = (torch.randn(2, 2, rows, 40, device="cuda", dtype=dtype) for _ in range(3))
        with ops.backend("native"):
            step(q, k, v, *rings, positions, slots, reach)


if __name__ == "__main__":
    sys.exit(main())

# SPDX-License-Identifier: Apache-2.0
"""One problem for whoever computes ``sa`` and ``llsa``: inputs in memory, outputs, every gradient, allowed errors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from headrace import ops
from headrace.ops import reference
from headrace.ops.layout import lay_out, num_blocks
from headrace.reach import Band, Blocks

HEADS = 2
FORWARD, BACKWARD = 2e-6, 1e-5  # relative error in fp32
FLOOR = {torch.bfloat16: 2.0**-11, torch.float16: 2.0**-14}  # an eighth of a rounding error

Results = list[torch.Tensor]  # y and the gradients of q, k, v and bias, in float64

PARAMETERS: dict[str, list[Any]] = {
    "T": [0, 1, 2, "A", "B", "A+B", "A+B+1", 63, 64, 65, 97, 333, 1500],
    "A": [0, 1, 3, 8, 16],
    "B": [0, 1, 3, 8, 64, 120, "T+5", None],
    "D": [16, 32, 64, 80, 128],
    "dtype": [torch.float32, torch.float64, torch.bfloat16, torch.float16],
    "memory": ["contiguous", "heads inside", "every other", "expanded"],
    "lengths": ["whole", "ragged", "on the edge"],
    "items": [0, 1, 3],
    "bias": [False, True],
}
OF_BLOCKS: dict[str, list[Any]] = {"hop": [1, 2, 8, 16], "per_block": [False, True], "final": [False, True]}


class Problem:
    """One case: the inputs, and the outputs and gradients that anyone makes of them.

    ``op`` is "sa", "llsa" or "first layer": llsa of frames, whose definition is that of frames laid out.
    """

    def __init__(self, op: str, case: dict[str, Any], device: str = "cpu") -> None:
        frames, ahead, back = _resolve(case)
        self.op, self.dtype, self.frames = "sa" if op == "sa" else "llsa", case["dtype"], frames
        self.is_first_layer = op == "first layer"
        self.reach = Band(ahead, back) if op == "sa" else Blocks(ahead, back, case["hop"], case["per_block"])
        shape = (case["items"], HEADS, frames, case["D"])
        queries = shape
        if isinstance(self.reach, Blocks):
            count = num_blocks(frames, self.reach)
            shape = (*shape[:2], count, self.reach.rows, case["D"])
            queries = (*shape[:3], self.reach.hop, case["D"]) if case.get("final") else shape
        shapes = [queries, shape, shape, queries]
        if self.is_first_layer:
            shapes[:3] = [(case["items"], HEADS, frames, case["D"])] * 3
        self.inputs = [_tensor(s, self.dtype, case["memory"], device) for s in shapes]
        edge = {"on the edge": max(frames - 1, 0), "nothing": 0}.get(case["lengths"])
        draw = torch.randint(0, frames + 1, (case["items"],)) if edge is None else torch.full((case["items"],), edge)
        self.lengths = None if case["lengths"] == "whole" else draw.to(device)
        self.bias = None
        if case["bias"] and back is not None:
            lowest, highest = self.reach.offsets()
            self.bias = torch.randn(HEADS, highest - lowest + 1).to(device, _computed_in(self.dtype))
            if case["bias"] == "of queries":
                dtype = self.dtype if case["bias dtype"] == "of q" else _computed_in(self.dtype)
                self.bias = _tensor((*queries[:-1], highest - lowest + 1), dtype, case["bias memory"], device)

    def run(self, call: Callable[..., torch.Tensor], dtype: torch.dtype | None = None) -> Results:
        """What ``call`` gives, on inputs that were converted to ``dtype``."""
        *qkv, grad = [x.to(dtype or x.dtype) for x in self.inputs]
        leaves = [x.detach().requires_grad_() for x in qkv]
        if self.bias is not None:
            bias = self.bias if dtype is None else self.bias.to(_computed_in(dtype))
            leaves.append(bias.detach().requires_grad_())
        y = call(*leaves[:3], self.reach, self.lengths, leaves[3] if self.bias is not None else None)
        if not y.requires_grad:  # the literal definition of nothing has no graph
            return [y.double(), *(torch.zeros_like(x).double() for x in leaves)]
        grads = torch.autograd.grad(y, leaves, grad, allow_unused=True)
        return [
            y.detach().double(),
            *(torch.zeros_like(x) if g is None else g.double() for g, x in zip(grads, leaves, strict=True)),
        ]

    def native(self) -> Results:
        with ops.backend("native"):
            return self.run(getattr(ops, self.op))

    def torch(self, dtype: torch.dtype | None = None) -> Results:
        with ops.backend("torch"):
            return self.run(getattr(ops, self.op), dtype)

    def literal(self) -> Results:
        return self.run(
            self._literal_first_layer if self.is_first_layer else getattr(reference, self.op), torch.float64
        )

    def _literal_first_layer(self, q: Any, k: Any, v: Any, blocks: Blocks, lengths: Any, bias: Any) -> torch.Tensor:
        whole = torch.full(q.shape[:1], self.frames)
        rows = [lay_out(x, blocks) for x in (q, k, v)]
        return reference.llsa(*rows, blocks, whole if lengths is None else lengths, bias)

    def plain(self) -> Results:
        return self.run(plain)


def _resolve(case: dict[str, Any]) -> tuple[int, int, int | None]:
    """T, A and B; T and B may be written in terms of the others."""
    ahead, back, frames = case["A"], case["B"], case["T"]
    known_back = back if isinstance(back, int) else 7
    known = {"A": ahead, "B": known_back, "A+B": ahead + known_back, "A+B+1": ahead + known_back + 1}
    frames = known.get(frames, frames)
    return frames, ahead, frames + 5 if back == "T+5" else back


def _computed_in(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _tensor(shape: tuple[int, ...], dtype: torch.dtype, memory: str, device: str) -> torch.Tensor:
    """Random numbers [N, H, ..., D]; unit stride in D, whatever else, but for "numbers apart"."""

    def random(*sizes: int) -> torch.Tensor:
        return torch.randn(sizes).to(device, dtype)

    if memory == "heads inside":
        return random(shape[0], *shape[2:-1], shape[1], shape[-1]).movedim(-2, 1)
    if memory == "every other":
        return random(*shape[:2], 2 * shape[2], *shape[3:])[:, :, ::2]
    if memory == "numbers apart":
        return random(*shape[:-1], 2 * shape[-1])[..., ::2]
    if memory == "expanded":
        return random(1, 1, *shape[2:]).expand(shape)
    return random(*shape)


def plain(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    reach: Band | Blocks,
    lengths: torch.Tensor | None,
    bias: torch.Tensor | None,
) -> torch.Tensor:
    """Attention as PyTorch writes it: whole matrices of scores under a mask, every step in the dtype of q."""
    blocks = reach if isinstance(reach, Blocks) else None
    query_block, query = (x[:, None] for x in _places(q, blocks))
    key_block, key = _places(k, blocks)
    frames = q.shape[2] * (1 if blocks is None else blocks.hop)
    end = torch.full(q.shape[:1], frames, device=q.device) if lengths is None else lengths
    seen = (key <= query + reach.look_ahead) if blocks is None else (key_block <= query_block)
    if blocks is not None:
        earlier, final = key_block < query_block, key < (key_block + 1) * blocks.hop
        seen = seen & (~earlier | final)
    if reach.look_back is not None:
        start = query_block * blocks.hop if blocks is not None and blocks.per_block else query
        seen = seen & (key >= start - reach.look_back)
    seen = (seen & (key < end[:, None, None]))[:, None]
    exists = (query < end[:, None, None])[:, None]
    flat_q, flat_k, flat_v = (x.flatten(2, -2) for x in (q, k, v))
    scores = flat_q @ flat_k.mT / q.shape[-1] ** 0.5
    if bias is not None:
        lowest, highest = reach.offsets()
        scores = scores + bias.to(q.dtype)[:, (key - query - lowest).clamp(0, highest - lowest)]
    weights = scores.masked_fill(~seen, float("-inf")).softmax(-1).masked_fill(~(seen & exists), 0)
    return (weights @ flat_v).reshape(q.shape)


def _places(x: torch.Tensor, blocks: Blocks | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Block and frame of each row of x."""
    rows = x.shape[3] if blocks is not None else 1
    number = torch.arange(x.shape[2] * rows, device=x.device)
    hop = 1 if blocks is None else blocks.hop
    return number // rows, number // rows * hop + number % rows


def relative_errors(got: Results, truth: Results, least: float = 1e-30) -> list[float]:
    """Of each tensor. Where the truth is nothing (one key has no gradient of scores), errors count as parts of
    ``least`` of the size of inputs, whose numbers are drawn with variance 1."""
    sizes = (b.norm().clamp_min(max(least * b.numel() ** 0.5, 1e-30)) for b in truth)
    return [((a - b).norm() / size).item() for a, b, size in zip(got, truth, sizes, strict=True)]


def check(problem: Problem, got: Results, truth: Results, peer: Results | None = None, least: float = 1e-30) -> None:
    """In 16-bit types at most twice the error of ``peer`` and a floor: of the torch path, which rounds once and has an
    eighth of a rounding error as its floor, or of another with a quarter."""
    errors = relative_errors(got, truth, least)
    if problem.dtype in FLOOR:
        of_peer = relative_errors(peer or problem.torch(), truth, least)
        allowed = [2 * error + FLOOR[problem.dtype] * (1 if peer is None else 2) for error in of_peer]
    else:
        forward, backward = (1e-12, 1e-12) if problem.dtype == torch.float64 else (FORWARD, BACKWARD)
        allowed = [forward] + [backward] * (len(errors) - 1)
    for name, error, most in zip(["y", "q", "k", "v", "bias"], errors, allowed, strict=False):
        assert error <= most, f"{name}: relative error {error:.2g}, at most {most:.2g}"


REACHES_OF_TICKS = [Band(3, 20), Band(0, 80), Blocks(3, 9), Blocks(2, 70, 4), Blocks(2, 6, 4, True)]


def check_ticks(step: Callable[..., torch.Tensor], reach: Band | Blocks, dtype: torch.dtype, device: str) -> None:
    """Twelve ticks of two of three streams by ``step``, called as ops.sa_step is: the torch path's frames and rings."""
    band = isinstance(reach, Band)
    rows = 9 if band else reach.rows
    frames = reach.look_back + (reach.look_ahead + rows if band else reach.hop)

    def given(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, 40, device=device).to(dtype)

    rings = given(3, 2, frames), given(3, 2, frames), torch.zeros(3, dtype=torch.int64, device=device)
    ours, theirs = ([x.clone() for x in rings] for _ in range(2))
    slots = torch.tensor([2, 0], device=device)
    for tick in range(12):
        q, k, v = (given(2, 2, rows) for _ in range(3))
        lengths = None if tick < 11 else ours[2][slots] + torch.tensor([2, 10**6], device=device)
        got = step(q, k, v, *ours, slots, reach, lengths)
        with ops.backend("torch"):
            truth = (ops.sa_step if band else ops.llsa_step)(q, k, v, *theirs, slots, reach, lengths)
        assert torch.allclose(got, truth, atol=1e-5 if dtype == torch.float32 else 1e-2)
        for a, b in zip(ours, theirs, strict=True):
            assert torch.equal(a, b)


def name_of(case: dict[str, Any]) -> str:
    words = [f"{k}{str(v).removeprefix('torch.')}" for k, v in case.items() if not isinstance(v, bool)]
    return "-".join(words + [k for k, v in case.items() if v is True])

# SPDX-License-Identifier: Apache-2.0
"""Load the kernels built from csrc/, and say why when they are not there.

``headrace/_C.so`` is built by setup.py; it holds no Python symbol, so one file serves every Python and every torch from
2.11 on. ``headrace/native_build.json``, written beside it, says how it was built or why it was not.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from headrace.ops.arguments import is_of_queries
from headrace.reach import Band, Blocks

FOLDER = Path(__file__).resolve().parents[1]
OLDEST_GPU = (8, 0)


@dataclass(frozen=True)
class Status:
    """Whether the native kernels can be called, on which kinds of devices, and why or why not."""

    is_loaded: bool
    reason: str
    devices: tuple[str, ...] = ()
    cpu_instruction_set: str | None = None
    build: dict[str, Any] = field(default_factory=dict)


def load(folder: Path = FOLDER) -> Status:
    """Load ``_C.so`` from ``folder`` and tell torch about its operations; never raises."""
    library, build = folder / "_C.so", _build_record(folder)
    if not library.exists():
        return Status(False, build.get("reason", f"{library.name} was never built; pip install builds it"), build=build)
    try:
        torch.ops.load_library(library)
        _register()
    except (OSError, RuntimeError, AttributeError) as error:
        reason = f"{library.name} does not load under torch {torch.__version__}: {str(error).splitlines()[0]}"
        return Status(False, reason, build=build)
    names = torch.ops.headrace
    has_cuda = bool(names.has_cuda_kernels()) and torch.version.cuda is not None
    devices = ("cpu", "cuda") if has_cuda else ("cpu",)
    return Status(True, f"{library.name} is loaded", devices, names.cpu_instruction_set(), build)


def _build_record(folder: Path) -> dict[str, Any]:
    try:
        return json.loads((folder / "native_build.json").read_text())
    except (OSError, ValueError):
        return {}


# ---- what torch must know of the operations: shapes without data, and gradients ----


def _register() -> None:
    fakes = {"sa": _fake_forward, "llsa": _fake_forward, "llsa_first_layer": _fake_first_layer}
    for name, num_reach_arguments in (("sa", 2), ("llsa", 4), ("llsa_first_layer", 3)):
        forward, backward = f"headrace::{name}", f"headrace::{name}_backward"
        torch.library.register_fake(forward, fakes[name])
        torch.library.register_fake(backward, _fake_backward)
        grads = _gradient(getattr(torch.ops.headrace, f"{name}_backward"), num_reach_arguments)
        torch.library.register_autograd(forward, grads, setup_context=_save)
        torch.library.register_autograd(backward, _no_second_gradient(name))
    torch.library.register_fake("headrace::few_rows_linear", _fake_linear)
    torch.library.register_fake("headrace::int8_linear", _fake_linear)
    for name in ("sa_step", "llsa_step"):
        torch.library.register_fake(f"headrace::{name}", _fake_step)


def _compute_type(q: torch.Tensor) -> torch.dtype:
    return torch.float64 if q.dtype == torch.float64 else torch.float32


def _fake_forward(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, lengths: Any, bias: Any, *reach: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.empty_like(q), q.new_empty(q.shape[:-1], dtype=_compute_type(q))


def _fake_first_layer(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    lengths: Any,
    bias: Any,
    look_ahead: int,
    look_back: int,
    hop: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    N, H, T, D = q.shape
    P, R = (T + hop - 1) // hop, hop + look_ahead
    y = q.new_empty(N, P, R, H, D).movedim(3, 1)
    return y, q.new_empty(N, H, P, R, dtype=_compute_type(q))


def _fake_backward(
    grad_y: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    y: torch.Tensor,
    log_sums: torch.Tensor,
    lengths: Any,
    bias: torch.Tensor | None,
    *reach: Any,
) -> tuple[torch.Tensor, ...]:
    grad_bias = q.new_empty((q.shape[1], 0) if bias is None else bias.shape, dtype=_compute_type(q))
    return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v), grad_bias


def _fake_step(q: torch.Tensor, *_: Any) -> torch.Tensor:
    return torch.empty_like(q)


def _fake_linear(x: torch.Tensor, weight: torch.Tensor, *_: Any) -> torch.Tensor:
    return x.new_empty(x.shape[0], weight.shape[0])


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, torch.Tensor]) -> None:
    q, k, v, lengths, bias, *ctx.reach = inputs
    ctx.save_for_backward(q, k, v, *output, lengths, bias)
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def _gradient(operation: Any, num_reach_arguments: int) -> Any:
    def backward(ctx: Any, grad_y: torch.Tensor | None, _: Any) -> tuple[torch.Tensor | None, ...]:
        if grad_y is None:
            return (None,) * (5 + num_reach_arguments)
        q, k, v, y, log_sums, lengths, bias = ctx.saved_tensors
        *grads, grad_bias = operation(grad_y, q, k, v, y, log_sums, lengths, bias, *ctx.reach)
        return *grads, None, None if bias is None else grad_bias, *(None,) * num_reach_arguments

    return backward


def _no_second_gradient(name: str) -> Any:
    def backward(ctx: Any, *_: Any) -> None:
        op = name.partition("_")[0]
        raise RuntimeError(f"headrace.ops.{op} has no second gradient; headrace.ops.reference.{op} has.")

    return backward


def sa(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    band: Band,
    lengths: torch.Tensor | None,
    bias: torch.Tensor | None,
) -> torch.Tensor:
    """``headrace.ops.sa`` by the kernels, with arguments that were checked there."""
    return torch.ops.headrace.sa(q, k, v, lengths, _as_computed(bias, q), band.look_ahead, _number(band.look_back))[0]


def llsa(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    blocks: Blocks,
    lengths: torch.Tensor | None,
    bias: torch.Tensor | None,
) -> torch.Tensor:
    """``headrace.ops.llsa`` by the kernels, with arguments that were checked there."""
    reach = (blocks.look_ahead, _number(blocks.look_back), blocks.hop, blocks.per_block)
    return torch.ops.headrace.llsa(q, k, v, lengths, _as_computed(bias, q), *reach)[0]


def llsa_first_layer(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    blocks: Blocks,
    lengths: torch.Tensor | None,
    bias: torch.Tensor | None,
) -> torch.Tensor:
    """``headrace.ops.llsa`` of [N, H, T, D] on the CPU: one row of scores a frame; its rows are prefixes of it."""
    reach = (blocks.look_ahead, _number(blocks.look_back), blocks.hop)
    return torch.ops.headrace.llsa_first_layer(q, k, v, lengths, _as_computed(bias, q), *reach)[0]


def llsa_step(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    state: tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor],
    blocks: Blocks,
    lengths: torch.Tensor | None,
    bias: torch.Tensor | None,
) -> torch.Tensor:
    """``headrace.ops.llsa_step`` by the kernels, with arguments that were checked there; state: rings .. slots."""
    reach = (blocks.look_ahead, _number(blocks.look_back), blocks.hop, blocks.per_block)
    return torch.ops.headrace.llsa_step(q, k, v, *state, lengths, _as_computed(bias, q), *reach)


def _number(look_back: int | None) -> int:
    return -1 if look_back is None else look_back


def _as_computed(bias: torch.Tensor | None, q: torch.Tensor) -> torch.Tensor | None:
    if bias is None:
        return None
    bias = bias.to(_compute_type(q))
    return bias if is_of_queries(bias) else bias.contiguous()  # large: read with its strides


STATUS = load()
"""Of this process: the kernels are loaded when headrace.ops is imported."""

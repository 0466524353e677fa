# SPDX-License-Identifier: Apache-2.0
"""Checks that ``sa`` and ``llsa`` share: what came, what was expected, what to do."""

from __future__ import annotations

import torch

from headrace.reach import Band, Blocks

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
MOST_FEATURES = 128


def check_qkv(
    op: str, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, axes: str, key_rows: int | None = None
) -> None:
    """q, k, v: the given axes, one dtype of DTYPES, one device; k and v of q's shape, or with ``key_rows`` rows.

    Raises:
        ValueError: naming the argument, what was expected and what came.
    """
    expected = axes.count(",") + 1
    for name, x in (("q", q), ("k", k), ("v", v)):
        if x.dim() != expected:
            raise ValueError(f"{op}: {name} must be [{axes}], got shape {tuple(x.shape)}.")
        shape = q.shape if name == "q" or key_rows is None else (*q.shape[:-2], key_rows, q.shape[-1])
        if tuple(x.shape) != tuple(shape):
            raise ValueError(f"{op}: {name} must be {tuple(shape)} to go with q, got {tuple(x.shape)}.")
        if x.dtype != q.dtype or x.device != q.device:
            raise ValueError(f"{op}: {name} must be {q.dtype} on {q.device} like q, got {x.dtype} on {x.device}.")
    if q.dtype not in DTYPES:
        raise ValueError(f"{op}: q must be one of {', '.join(map(str, DTYPES))}, got {q.dtype}.")


def check_features(op: str, q: torch.Tensor) -> None:
    """D, the features of a head, is what the kernels of every backend hold in registers and shared memory.

    Raises:
        ValueError: naming what was expected and what came.
    """
    if not 1 <= q.shape[-1] <= MOST_FEATURES:
        raise ValueError(f"{op}: q must have 1 to {MOST_FEATURES} features a head (D), got {q.shape[-1]}.")


def check_lengths(op: str, lengths: torch.Tensor | None, q: torch.Tensor, num_frames: int) -> None:
    """lengths: [N] int64 on q's device, each in [0, num_frames].

    The values are read where they live on the CPU; kernels clamp them elsewhere, where reading would synchronise.

    Raises:
        ValueError: naming what was expected and what came.
    """
    if lengths is None:
        return
    if lengths.shape != q.shape[:1] or lengths.dtype != torch.int64 or lengths.device != q.device:
        raise ValueError(
            f"{op}: lengths must be [{q.shape[0]}] int64 on {q.device}, got {tuple(lengths.shape)} {lengths.dtype} "
            f"on {lengths.device}."
        )
    if lengths.device.type != "cpu" or torch.compiler.is_compiling() or lengths.numel() == 0:
        return
    lowest, highest = (int(x) for x in lengths.aminmax())
    if lowest < 0 or highest > num_frames:
        wrong = lowest if lowest < 0 else highest
        raise ValueError(f"{op}: lengths must lie in 0 .. {num_frames} frames, got {wrong}.")


def at_autocast_dtype(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Under autocast, floating tensors in its dtype (fp64 stays), as torch's own attention takes them."""
    kind = tensors[0].device.type
    if not torch.is_autocast_enabled(kind):
        return tensors
    dtype = torch.get_autocast_dtype(kind)
    return tuple(x.to(dtype) if x.is_floating_point() and x.dtype != torch.float64 else x for x in tensors)


def check_bias(
    op: str,
    bias: torch.Tensor | None,
    q: torch.Tensor,
    reach: Band | Blocks,
    allowed: dict[str, tuple[int, ...]] | None = None,
) -> None:
    """bias: [H, number of offsets that ``reach`` can see], which needs a bounded look-back.

    ``allowed`` names other axes before the offsets, and gives their sizes.

    Raises:
        ValueError: naming what was expected and what came.
    """
    if bias is None:
        return
    lowest, highest = reach.offsets()
    axes = {"H": (q.shape[1],)} if allowed is None else allowed
    shapes = {f"[{names}, offsets]": (*sizes, highest - lowest + 1) for names, sizes in axes.items()}
    if tuple(bias.shape) not in shapes.values() or bias.device != q.device:
        expected = " or ".join(f"{names} = {shape}" for names, shape in shapes.items())
        raise ValueError(
            f"{op}: bias must be {expected} on {q.device} for {reach}, got {tuple(bias.shape)} on {bias.device}."
        )


def is_of_queries(bias: torch.Tensor | None) -> bool:
    """Whether a bias that was checked has numbers for each query, not [H, offsets] that all queries share."""
    return bias is not None and bias.dim() > 2

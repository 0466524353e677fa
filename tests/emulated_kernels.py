# SPDX-License-Identifier: Apache-2.0
"""Calls of the CUDA kernels that emulated.cpp runs on the host: tensors in, tensors out."""

import ctypes
import subprocess
from pathlib import Path

import torch

from headrace.reach import Band, Blocks

HERE = Path(__file__).resolve().parent / "csrc"
ELEMENTS = {torch.float32: 0, torch.float16: 2, torch.bfloat16: 3}  # enum class Element of csrc/cpu/attention.h
POINTER = ctypes.c_void_p


class Given(ctypes.Structure):
    """struct Given of emulated.cpp."""

    _fields_ = (
        ("sizes", ctypes.c_int64 * 5),
        ("strides", ctypes.c_int64 * 4 * 8),
        ("reach", ctypes.c_int64 * 5),
        ("element", ctypes.c_int64),
        ("lengths", POINTER),
        ("bias", POINTER),
        ("data", POINTER * 8),
        ("log_sums", POINTER),
        ("grad_bias_parts", POINTER),
    )


class GivenStep(ctypes.Structure):
    """struct GivenStep of emulated.cpp."""

    _fields_ = (
        ("sizes", ctypes.c_int64 * 6),
        ("strides", ctypes.c_int64 * 3 * 4),
        ("reach", ctypes.c_int64 * 5),
        ("element", ctypes.c_int64),
        ("lengths", POINTER),
        ("positions", POINTER),
        ("slots", POINTER),
        ("data", POINTER * 4),
        ("key_ring", POINTER),
        ("value_ring", POINTER),
    )


def build(folder):
    """Compile emulated.cpp into ``folder`` and load it."""
    library = folder / "emulated.so"
    flags = ["-std=c++17", "-O1", "-shared", "-fPIC", "-Wno-unknown-pragmas", f"-I{HERE}"]
    subprocess.run(["g++", *flags, HERE / "emulated.cpp", "-o", library], check=True)
    loaded = ctypes.CDLL(str(library))
    loaded.emulated_bias_parts.restype = ctypes.c_int64
    return loaded


def _pointer(x):
    return None if x is None else x.data_ptr()


def _reach(reach):
    back = -1 if reach.look_back is None else reach.look_back
    hop, per_block = (reach.hop, reach.per_block) if isinstance(reach, Blocks) else (1, False)
    return (ctypes.c_int64 * 5)(isinstance(reach, Band), reach.look_ahead, back, hop, per_block)


def _given(tensors, reach, lengths, bias, log_sums):
    q = tensors[0]
    given = Given(reach=_reach(reach), element=ELEMENTS[q.dtype])
    given.sizes[:] = [*q.shape[:3], q.shape[3] if q.dim() == 5 else 1, q.shape[-1]]
    for i, x in enumerate(tensors):
        given.strides[i][:] = [x.stride(0), x.stride(1), x.stride(2), x.stride(3) if x.dim() == 5 else 0]
        given.data[i] = x.data_ptr()
    given.lengths, given.bias, given.log_sums = _pointer(lengths), _pointer(bias), _pointer(log_sums)
    return given


def _nan_like(x):
    return torch.full_like(x, float("nan"))


def forward(kernels, q, k, v, reach, lengths=None, bias=None):
    """y and the log of the softmax's denominators, in memory that was full of NaN."""
    y, log_sums = _nan_like(q), torch.full(q.shape[:-1], float("nan"))
    assert kernels.emulated_forward(ctypes.byref(_given([q, k, v, y], reach, lengths, bias, log_sums))) == 0
    return y, log_sums


def backward(kernels, grad_y, q, k, v, y, log_sums, reach, lengths=None, bias=None):
    """Gradients of q, k, v and bias, in memory that was full of NaN."""
    grads = [_nan_like(x) for x in (q, k, v)]
    given = _given([q, k, v, y, grad_y, *grads], reach, lengths, bias, log_sums)
    parts = None
    if bias is not None:
        parts = torch.zeros(*q.shape[:2], kernels.emulated_bias_parts(ctypes.byref(given)), bias.shape[1])
        given.grad_bias_parts = parts.data_ptr()
    assert kernels.emulated_backward(ctypes.byref(given)) == 0
    return *grads, None if parts is None else parts.sum((0, 2))


def step(kernels, q, k, v, key_ring, value_ring, positions, slots, reach, lengths=None):
    """y of one tick; rings and positions are changed in place."""
    y = _nan_like(q)
    given = GivenStep(reach=_reach(reach), element=ELEMENTS[q.dtype])
    given.sizes[:] = [*q.shape[:3], k.shape[2], q.shape[3], key_ring.shape[2]]
    for i, x in enumerate((q, k, v, y)):
        given.strides[i][:] = x.stride()[:3]
        given.data[i] = x.data_ptr()
    given.lengths, given.positions, given.slots = _pointer(lengths), _pointer(positions), _pointer(slots)
    given.key_ring, given.value_ring = key_ring.data_ptr(), value_ring.data_ptr()
    assert kernels.emulated_step(ctypes.byref(given)) == 0
    positions[slots] += reach.hop if isinstance(reach, Blocks) else k.shape[2]
    return y

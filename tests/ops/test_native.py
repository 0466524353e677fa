# SPDX-License-Identifier: Apache-2.0
"""The native kernels against the definition in float64, on memory full of NaN, and what torch asks of operations."""

import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attention_problem import BACKWARD, OF_BLOCKS, PARAMETERS, Problem, check, name_of, relative_errors
from covering_array import covering_array
from headrace import ops
from headrace.ops import native
from headrace.ops.layout import lay_out, num_blocks
from headrace.reach import Band, Blocks

pytestmark = pytest.mark.skipif(not native.STATUS.is_loaded, reason=native.STATUS.reason)

LONGEST_LITERAL = 97  # frames; the definition's loops over more are slow, and run in `make test-all`
CASES = {
    "sa": covering_array(PARAMETERS),
    "llsa": covering_array({**PARAMETERS, **OF_BLOCKS}, seed=1),
    "first layer": covering_array({**PARAMETERS, "hop": OF_BLOCKS["hop"], "per_block": [False]}, seed=2),
}


def each_case(op):
    return pytest.mark.parametrize("case", CASES[op], ids=name_of)


def check_against_the_definition(op, case):
    torch.manual_seed(len(name_of(case)))
    problem = Problem(op, case)
    truth = problem.literal() if problem.frames <= LONGEST_LITERAL else problem.torch(torch.float64)
    check(problem, problem.native(), truth)


@each_case("sa")
def test_sa_is_the_definition_for_every_pair_of_values(case, poisoned):
    check_against_the_definition("sa", case)


@each_case("llsa")
def test_llsa_is_the_definition_for_every_pair_of_values(case, poisoned):
    check_against_the_definition("llsa", case)


@each_case("first layer")
def test_llsa_of_the_first_layer_is_the_definition_for_every_pair_of_values(case, poisoned):
    check_against_the_definition("first layer", case)


def test_a_key_ahead_that_outweighs_all_others_is_not_lost():
    """Rows of a frame share exponentials: the largest score may come with the last key, or leave with it."""
    blocks = Blocks(3, 8)
    torch.manual_seed(0)
    for place in range(12):
        q, k, v = (torch.randn(1, 1, 12, 16) for _ in range(3))
        q, k = q.abs(), k * 0.1
        k[:, :, place] = 30.0
        grad = torch.randn(1, 1, 12, 4, 16)
        results = []
        for dtype, backend in ((torch.float32, "native"), (torch.float64, "torch")):
            leaves = [x.to(dtype).requires_grad_() for x in (q, k, v)]
            with ops.backend(backend):
                y = ops.llsa(*leaves, blocks)
            results.append([y.double(), *(g.double() for g in torch.autograd.grad(y, leaves, grad.to(dtype)))])
        for got, truth in zip(*results, strict=True):
            torch.testing.assert_close(got, truth, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("op", ["sa", "llsa", "first layer"])
@pytest.mark.parametrize("frames", [333, 1500])
def test_long_utterances_are_the_literal_loops(op, frames):
    torch.manual_seed(0)
    case = {"T": frames, "A": 8, "B": 64, "D": 64, "dtype": torch.float32, "memory": "contiguous", "lengths": "ragged"}
    problem = Problem(op, {**case, "items": 2, "bias": True, "hop": 1, "per_block": False})
    check(problem, problem.native(), problem.literal())


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 700), st.integers(0, 20), st.none() | st.integers(0, 300), st.integers(1, 9), st.booleans())
def test_any_reach_is_the_torch_path(frames, ahead, back, hop, per_block):
    torch.manual_seed(frames)
    case = {"T": frames, "A": ahead, "B": back, "D": 16, "dtype": torch.float32, "memory": "contiguous"}
    case |= {"lengths": "ragged", "items": 2, "bias": True, "hop": hop, "per_block": per_block}
    for op in ("sa", "llsa", *([] if per_block else ["first layer"])):
        problem = Problem(op, case)
        check(problem, problem.native(), problem.torch(torch.float64))


@pytest.mark.parametrize(
    ("op", "reach"),
    [
        ("sa", Band(8, 64)),
        ("sa", Band(20, 300)),
        ("sa", Band(2, None)),
        ("llsa", Blocks(8, 64)),
        ("llsa", Blocks(3, 300, 4)),
        ("llsa", Blocks(0, 64, 16, per_block=True)),
        ("first layer", Blocks(8, 64)),
        ("first layer", Blocks(3, 300, 4)),
    ],
    ids=str,
)
@pytest.mark.parametrize("length", [None, 1100, 750, 3], ids=lambda n: f"length {n}")
def test_bits_are_the_same_twice_and_for_any_number_of_threads(op, reach, length, poisoned):
    torch.manual_seed(0)
    rows = (1, 2, 1500, 32) if op == "sa" else (1, 2, num_blocks(1500, reach), reach.rows, 32)
    q, k, v = (torch.randn((1, 2, 1500, 32) if op == "first layer" else rows) for _ in range(3))
    grad, function = torch.randn(rows), ops.sa if op == "sa" else ops.llsa
    lengths = None if length is None else torch.tensor([length])
    bias = None if reach.look_back is None else torch.randn(2, 1 + reach.offsets()[1] - reach.offsets()[0])
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 2, 3):
            torch.set_num_threads(threads)
            leaves = [x.detach().requires_grad_() for x in (q, k, v, *([] if bias is None else [bias]))]
            y = function(*leaves[:3], reach, lengths, None if bias is None else leaves[3])
            results.append([y, *torch.autograd.grad(y, leaves, grad)])
    finally:
        torch.set_num_threads(before)
    for again in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], again, strict=True))
    with ops.backend("torch"):
        exact = [x.detach().double().requires_grad_() for x in (q, k, v, *([] if bias is None else [bias]))]
        y = function(*exact[:3], reach, lengths, None if bias is None else exact[3])
        truth = [y, *torch.autograd.grad(y, exact, grad.double())]
    assert max(relative_errors([x.double() for x in results[0]], truth)) <= BACKWARD


@pytest.mark.parametrize("biased", [False, True], ids=["plain", "bias"])
@pytest.mark.parametrize(
    ("op", "shape", "reach"),
    [
        ("sa", (2, 2, 7, 4), Band(1, 2)),
        ("llsa", (2, 2, 3, 4, 4), Blocks(2, 3, 2)),
        ("llsa", (2, 2, 5, 4), Blocks(2, 3, 2)),
    ],
    ids=["sa", "llsa", "first layer"],
)
def test_gradcheck(op, shape, reach, biased):
    torch.manual_seed(0)
    inputs = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    lowest, highest = reach.offsets()
    bias = torch.randn(2, highest - lowest + 1, dtype=torch.float64, requires_grad=True) if biased else None
    lengths = torch.tensor([5, 3])
    assert torch.autograd.gradcheck(lambda *x: getattr(ops, op)(*x[:3], reach, lengths, *x[3:]), [*inputs, bias])


@pytest.mark.parametrize("op", ["sa", "llsa"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_opcheck(op, dtype):
    shape = (2, 2, 9, 16) if op == "sa" else (2, 2, 5, 4, 16)
    q, k, v = (torch.randn(shape, dtype=dtype, requires_grad=True) for _ in range(3))
    reach = (2, 3) if op == "sa" else (2, 3, 2, False)
    bias = torch.randn(2, 6 if op == "sa" else 7, requires_grad=True)
    operation = getattr(torch.ops.headrace, op)
    torch.library.opcheck(operation, (q, k, v, torch.tensor([9, 4]), bias, *reach))
    torch.library.opcheck(operation, (q, k, v, None, None, *reach))


def test_opcheck_of_the_first_layer():
    q, k, v = (torch.randn(2, 2, 9, 16, requires_grad=True) for _ in range(3))
    bias = torch.randn(2, 7, requires_grad=True)
    operation = torch.ops.headrace.llsa_first_layer
    torch.library.opcheck(operation, (q, k, v, torch.tensor([9, 4]), bias, 2, 3, 2))
    torch.library.opcheck(operation, (q, k, v, None, None, 2, 3, 2))


@pytest.mark.parametrize("op", ["sa_step", "llsa_step"])
def test_opcheck_of_ticks(op):
    q, k, v = (torch.randn(2, 2, 3, 16) for _ in range(3))
    ring, positions, slots = torch.randn(3, 2, 9, 16), torch.tensor([4, 2, 0]), torch.tensor([2, 0])
    rest = (2, 4) if op == "sa_step" else (None, 2, 4, 1, False)
    arguments = (q, k, v, ring, ring.clone(), positions, slots, torch.tensor([9, 9]), *rest)
    torch.library.opcheck(getattr(torch.ops.headrace, op), arguments)


@pytest.mark.parametrize("op", ["sa", "llsa", "first layer"])
def test_compiles_whole_for_any_number_of_frames(op):
    reach = Band(2, 3) if op == "sa" else Blocks(2, 3, 2)
    function = ops.sa if op == "sa" else ops.llsa
    compiled = torch.compile(
        lambda q, k, v, lengths: function(q, k, v, reach, lengths).sin(),
        fullgraph=True,
        dynamic=True,
        backend="aot_eager",
    )
    for frames in (5, 9, 17):
        shape = (2, 2, frames, 4, 16) if op == "llsa" else (2, 2, frames, 16)
        inputs = [torch.randn(shape, requires_grad=True) for _ in range(3)]
        lengths = torch.tensor([frames, 3])
        got = torch.autograd.grad(compiled(*inputs, lengths).sum(), inputs)
        expected = torch.autograd.grad(function(*inputs, reach, lengths).sin().sum(), inputs)
        for a, b in zip(got, expected, strict=True):
            torch.testing.assert_close(a, b)


def test_second_gradient_is_refused_and_not_wrong():
    q = torch.randn(1, 1, 5, 16, requires_grad=True)
    with ops.backend("native"):
        (grad,) = torch.autograd.grad(ops.sa(q, q, q, Band(1, 1)).sum(), q, create_graph=True)
        with pytest.raises(RuntimeError, match="no second gradient"):
            grad.sum().backward()


def test_autocast_computes_in_its_dtype():
    q = torch.randn(1, 1, 5, 16, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = ops.sa(q, q, q, Band(1, 1))
    assert y.dtype == torch.bfloat16
    y.sum().backward()
    assert q.grad.dtype == torch.float32


def test_result_has_the_strides_of_q_so_that_heads_join_without_a_copy():
    q = torch.randn(2, 9, 3, 16).movedim(-2, 1)
    y = ops.sa(q, q, q, Band(1, 1))
    assert y.stride() == q.stride()


def test_rows_that_share_memory_need_no_copy():
    blocks = Blocks(3, 8)
    frames = torch.randn(1, 2, 40, 16)
    rows = lay_out(frames, blocks)
    assert torch.equal(ops.llsa(rows, rows, rows, blocks), ops.llsa(*[rows.contiguous()] * 3, blocks))


def test_heads_of_the_first_layers_result_join_without_a_copy():
    q = torch.randn(2, 3, 9, 16)
    y = ops.llsa(q, q, q, Blocks(2, 4))
    assert y.movedim(1, -2).is_contiguous()


@pytest.mark.parametrize("name", native.STATUS.build.get("instruction_sets", []))
def test_every_instruction_set_that_this_machine_has_gives_the_same_to_rounding(name, tmp_path):
    script = f"""
import torch
from headrace import ops
from headrace.ops import native
from headrace.reach import Blocks
if native.STATUS.cpu_instruction_set != {name!r}:
    raise SystemExit(3)
torch.manual_seed(0)
for dtype in (torch.float32, torch.float16, torch.bfloat16, torch.float64):
    q, k, v = (torch.randn(2, 2, 90, 9, 80).to(dtype).requires_grad_() for _ in range(3))
    results = []
    for name in ("native", "torch"):
        with ops.backend(name):
            y = ops.llsa(q, k, v, Blocks(8, 64), torch.tensor([90, 41]))
        results.append([y, *torch.autograd.grad(y, (q, k, v), torch.ones_like(y))])
    for a, b in zip(*results):
        rtol, atol = (2e-2, 1e-2) if dtype.itemsize == 2 else (1e-4, 1e-5)
        torch.testing.assert_close(a, b, rtol=rtol, atol=atol)
"""
    environment = {**os.environ, "HEADRACE_CPU": name}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path, check=False)
    if done.returncode == 3:
        pytest.skip(f"this machine does not run {name}")
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.slow
def test_more_than_2_to_the_31_elements():
    q = torch.randn(1, 1, 3, 128, dtype=torch.bfloat16).expand(2**31 // (3 * 128) + 2, 1, 3, 128)
    assert q.numel() > 2**31
    y = ops.sa(q, q, q, Band(1, 1))
    assert torch.equal(y[0], y[-1])
    assert torch.equal(y[-1:], ops.sa(q[:1], q[:1], q[:1], Band(1, 1)))


def test_no_function_of_an_instruction_set_can_stand_in_for_another():
    # A weak symbol in one of these objects might be linked into the others, with instructions that a machine lacks.
    folder = native.FOLDER.parent / "build" / "native"
    objects = sorted(folder.glob("attention_*.o"))
    if not objects:
        pytest.skip("the objects of the build are not kept here")
    for path in objects:
        symbols = subprocess.run(["nm", str(path)], capture_output=True, text=True, check=True).stdout
        assert not [line for line in symbols.splitlines() if line.split()[-2] in "WVu"], path.name


def test_how_the_kernels_were_built_is_known():
    assert native.STATUS.build["built"] and native.STATUS.cpu_instruction_set in native.STATUS.build["instruction_sets"]


def test_backend_refuses_what_it_does_not_know():
    with pytest.raises(ValueError, match="one of native, torch, got 'cuda'"), ops.backend("cuda"):
        pass


def test_a_package_without_kernels_says_why(tmp_path):
    assert "never built" in native.load(tmp_path).reason
    (tmp_path / "native_build.json").write_text('{"built": false, "reason": "no C++ compiler was found"}')
    assert native.load(tmp_path).reason == "no C++ compiler was found"
    (tmp_path / "_C.so").write_bytes(b"not a library")
    assert "does not load under torch" in native.load(tmp_path).reason

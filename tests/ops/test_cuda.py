# SPDX-License-Identifier: Apache-2.0
"""The CUDA kernels on a GPU: the definition, bits, streams, graphs, no waiting. `make gpu-check` runs these."""

import pytest
import torch

from attention_problem import OF_BLOCKS, PARAMETERS, REACHES_OF_TICKS, Problem, check, check_ticks, name_of
from covering_array import covering_array
from headrace import ops
from headrace.ops import native
from headrace.ops.layout import num_blocks
from headrace.reach import Band, Blocks

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif("cuda" not in native.STATUS.devices, reason="the CUDA kernels were not built"),
]

ON_GPU = {**PARAMETERS, "dtype": [torch.float32, torch.bfloat16, torch.float16]}
CASES = {
    "sa": covering_array(ON_GPU),
    "llsa": covering_array({**ON_GPU, **OF_BLOCKS}, seed=1),
}
REACHES = [
    Band(8, 64),
    Band(3, 300),
    Band(2, None),
    Blocks(8, 64),
    Blocks(3, 300, 4),
    Blocks(0, 64, 16, per_block=True),
]


def check_case(op, case):
    torch.manual_seed(len(name_of(case)))
    problem = Problem(op, case, "cuda")
    check(problem, problem.native(), problem.torch(torch.float64), problem.plain(), least=0.03)


@pytest.mark.parametrize("case", CASES["sa"], ids=name_of)
def test_sa_is_the_definition_for_every_pair_of_values(case):
    check_case("sa", case)


@pytest.mark.parametrize("case", CASES["llsa"], ids=name_of)
def test_llsa_is_the_definition_for_every_pair_of_values(case):
    check_case("llsa", case)


def call(reach, frames=1500, dtype=torch.bfloat16):
    """The operation of a reach, random q, k, v and a gradient."""
    op = ops.sa if isinstance(reach, Band) else ops.llsa
    shape = (2, 4, frames, 64) if isinstance(reach, Band) else (2, 4, num_blocks(frames, reach), reach.rows, 64)
    q, k, v, grad = (torch.randn(shape, device="cuda").to(dtype) for _ in range(4))
    return lambda *given: op(*given, reach), [x.requires_grad_() for x in (q, k, v)], grad


def everything(run, leaves, grad):
    y = run(*leaves)
    return [y.detach(), *torch.autograd.grad(y, leaves, grad)]


@pytest.mark.parametrize("reach", REACHES, ids=str)
def test_bits_are_the_same_in_every_run(reach):
    run, leaves, grad = call(reach)
    first = everything(run, leaves, grad)
    for _ in range(5):
        assert all(torch.equal(a, b) for a, b in zip(first, everything(run, leaves, grad), strict=True))


@pytest.mark.parametrize("reach", REACHES, ids=str)
def test_nothing_waits_for_the_gpu(reach):
    run, leaves, grad = call(reach)
    everything(run, leaves, grad)
    torch.cuda.set_sync_debug_mode("error")
    try:
        everything(run, leaves, grad)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("reach", [Band(8, 64), Blocks(8, 64)], ids=str)
def test_work_goes_to_the_stream_that_is_current(reach):
    run, leaves, grad = call(reach)
    truth = everything(run, leaves, grad)
    side = torch.cuda.Stream()
    q, k, v = (torch.full_like(x, float("nan")) for x in leaves)
    torch.cuda.synchronize()
    with torch.cuda.stream(side):
        torch.cuda._sleep(50_000_000)  # what runs on another stream would read NaN
        for x, given in zip((q, k, v), leaves, strict=True):
            x.copy_(given.detach())
        got = everything(run, [x.requires_grad_() for x in (q, k, v)], grad)
    torch.cuda.synchronize()
    assert all(torch.equal(a, b) for a, b in zip(truth, got, strict=True))


@pytest.mark.parametrize("reach", [Band(8, 64), Blocks(8, 64)], ids=str)
def test_forward_is_captured_in_a_graph(reach):
    run, leaves, _ = call(reach)
    inputs = [x.detach() for x in leaves]
    run(*inputs)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = run(*inputs)
    for x in inputs:
        x.copy_(torch.randn_like(x))
    graph.replay()
    assert torch.equal(y, run(*inputs))


def test_lengths_on_the_gpu_are_clamped():
    run, leaves, _ = call(Band(3, 9), frames=50)
    q, k, v = (x.detach() for x in leaves)
    got = ops.sa(q, k, v, Band(3, 9), torch.tensor([-4, 99], device="cuda"))
    assert not got[0].any()
    assert torch.equal(got[1], run(q, k, v)[1])


@pytest.mark.parametrize("reach", REACHES_OF_TICKS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_ticks_are_the_torch_path(reach, dtype):
    check_ticks(ops.sa_step if isinstance(reach, Band) else ops.llsa_step, reach, dtype, "cuda")


@pytest.mark.parametrize("op", ["sa", "llsa"])
def test_compiles_whole_for_any_number_of_frames(op):
    reach = Band(3, 9) if op == "sa" else Blocks(3, 9)
    run = torch.compile(lambda q, k, v: getattr(ops, op)(q, k, v, reach), fullgraph=True, dynamic=True)
    for frames in (40, 77):
        plain_call, leaves, grad = call(reach, frames)
        for a, b in zip(everything(run, leaves, grad), everything(plain_call, leaves, grad), strict=True):
            assert torch.equal(a, b)


def test_more_than_2_to_the_31_elements():
    x = torch.randn(1, 1, 1, 64, device="cuda", dtype=torch.bfloat16).expand(8, 70_000, 64, 64)
    y = ops.sa(x, x, x, Band(1, 1))
    assert torch.allclose(y[-1, -1], x[0, 0], atol=1e-2)


def test_a_bias_for_each_query_is_computed_by_the_torch_path():
    blocks = Blocks(2, 5, 2)
    q, grad = (torch.randn(2, 2, 40, 4, 16) for _ in range(2))
    results = []
    for device in ("cpu", "cuda"):
        leaves = [
            x.to(device).requires_grad_() for x in (q, torch.linspace(-1, 1, 2 * 2 * 40 * 4 * 9).view(2, 2, 40, 4, 9))
        ]
        y = ops.llsa(leaves[0], leaves[0], leaves[0], blocks, None, leaves[1])
        results.append([y.cpu(), *(g.cpu() for g in torch.autograd.grad(y, leaves, grad.to(device)))])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_fp64_is_computed_by_the_torch_path():
    q = torch.randn(1, 1, 20, 16, device="cuda", dtype=torch.float64)
    assert torch.allclose(ops.sa(q, q, q, Band(2, 3)).cpu(), ops.sa(*[q.cpu()] * 3, Band(2, 3)))

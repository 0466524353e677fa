# SPDX-License-Identifier: Apache-2.0
"""8-bit weights: the kernel is its definition, rows know nothing of each other, encoders lose little and run live."""

import os
import subprocess
import sys

import pytest
import torch

from encoders import CONFIGS, small_encoder
from headrace import checkpoint, load, ops
from headrace.certificate import certify
from headrace.int8 import Int8Linear, int8_linear, to_int8
from headrace.ops import native

needs_kernels = pytest.mark.skipif(not native.STATUS.is_loaded, reason=native.STATUS.reason)


def layer(inputs, outputs, bias=True):
    torch.manual_seed(inputs + outputs)
    return Int8Linear(torch.nn.Linear(inputs, outputs, bias=bias))


@needs_kernels
@pytest.mark.parametrize("rows", [0, 1, 2, 3, 9, 40], ids=lambda n: f"{n} rows")
@pytest.mark.parametrize(("inputs", "outputs"), [(1, 1), (16, 5), (65, 130), (100, 64), (768, 67)], ids=str)
def test_the_kernel_is_its_definition(rows, inputs, outputs):
    linear = layer(inputs, outputs, bias=outputs != 64)
    x = torch.randn(2 * rows, inputs)[::2] * torch.logspace(-20, 20, rows)[:, None]
    got = torch.ops.headrace.int8_linear(x, linear.weight, linear.scales, linear.bias)
    torch.testing.assert_close(got, int8_linear(x, linear.weight, linear.scales, linear.bias), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("backend", ["torch", pytest.param("native", marks=needs_kernels)])
def test_it_is_close_to_the_linear_map_that_it_was_made_from(backend):
    linear = torch.nn.Linear(768, 300)
    x = torch.randn(4, 7, 768)
    with ops.backend(backend):
        got = Int8Linear(linear)(x)
    assert (got - linear(x)).norm() < 0.02 * linear(x).norm()


@needs_kernels
def test_a_loud_companion_does_not_change_a_quiet_row_by_one_bit():
    linear = layer(768, 130)
    quiet, loud = torch.randn(1, 768) * 1e-3, torch.randn(8, 768) * 1e3
    assert torch.equal(linear(quiet)[0], linear(torch.cat([loud, quiet]))[8])


@pytest.mark.parametrize("backend", ["torch", pytest.param("native", marks=needs_kernels)])
def test_a_row_of_zeros_gives_the_bias_and_one_that_is_not_finite_no_number(backend):
    linear = layer(80, 6)
    x = torch.randn(4, 80)
    x[0], x[1, 3], x[2, 79] = 0, float("nan"), float("inf")
    with ops.backend(backend):
        y = linear(x)
    assert torch.equal(y[0], linear.bias) and y[1:3].isnan().all() and y[3].isfinite().all()


@needs_kernels
def test_any_number_of_threads_gives_the_same_bits():
    linear, x, before, results = layer(768, 1000), torch.randn(5, 768), torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(linear(x))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


@needs_kernels
def test_opcheck():
    linear = layer(80, 6)
    torch.library.opcheck(
        torch.ops.headrace.int8_linear, (torch.randn(3, 80), linear.weight, linear.scales, linear.bias)
    )


@needs_kernels
@pytest.mark.parametrize("name", native.STATUS.build.get("instruction_sets", []))
def test_every_instruction_set_gives_the_same_bits(name, tmp_path):
    linear, x = layer(200, 30), torch.randn(9, 200)
    torch.save((x, linear.weight, linear.scales, linear.bias), tmp_path / "in.pt")
    torch.save(torch.ops.headrace.int8_linear(x, linear.weight, linear.scales, None), tmp_path / "out.pt")
    script = f"""
import torch
from headrace.ops import native
if native.STATUS.cpu_instruction_set != {name!r}:
    raise SystemExit(3)
x, weight, scales, bias = torch.load("in.pt")
assert torch.equal(torch.ops.headrace.int8_linear(x, weight, scales, None), torch.load("out.pt"))
"""
    environment = {**os.environ, "HEADRACE_CPU": name, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path, check=False)
    if done.returncode == 3:
        pytest.skip(f"this machine does not run {name}")
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize(
    "name",
    ["llsa", "sa", "conformer chunked relative", "conformer none", "conformer summary", "conformer summary unbounded"],
)
def test_an_encoder_with_8_bit_weights_loses_little_and_cuts_change_nothing(name, tmp_path):
    encoder = small_encoder(torch.float32, **CONFIGS[name], embed_dim=64, ffn_dim=128)
    checkpoint.save(encoder, tmp_path / "encoder")
    rounded = load(tmp_path / "encoder", int8=True)
    waveform = torch.randn(1, 9000)
    with torch.no_grad():
        exact, got = encoder(waveform).last_hidden_state, rounded(waveform).last_hidden_state
    assert 0 < (got - exact).norm() < 0.1 * exact.norm()  # of weights with much noise, which attend sharply
    results = []
    for cuts in ([9000], [1, 2000, 8000, 9000], list(range(0, 9001, 500))):
        state, begin, parts = rounded.init_state(), 0, []
        for end in cuts:
            parts.append(rounded.step(waveform[:, begin:end], state)[0].hidden_states[0])
            begin = end
        results.append(torch.cat([*parts, rounded.finish(state)[0].hidden_states[0]], 1))
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])
    assert (results[0] - exact).norm() < 0.1 * exact.norm()


def test_a_certificate_says_what_8_bit_weights_lose():
    certificate = certify(small_encoder(torch.float32, mixer="llsa", embed_dim=64), timed_seconds=0, int8=True)
    assert certificate.holds and 0 < certificate.int8_difference < 0.1


def test_what_cannot_have_8_bit_weights_is_refused():
    with pytest.raises(ValueError, match=r"call encoder.eval\(\)"):
        to_int8(small_encoder(torch.float32, mixer="sa").train())
    with pytest.raises(ValueError, match=r"fp32 on the CPU, got torch.float64"):
        to_int8(small_encoder(mixer="sa"))

# SPDX-License-Identifier: Apache-2.0
"""The CUDA kernels compile where nvcc is, without spills; there need not be a GPU."""

import hashlib
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

CSRC = Path(__file__).resolve().parents[2] / "csrc"
KEPT = CSRC.parent / "build" / "cuda-check"
_spec = importlib.util.spec_from_file_location("csrc_build", CSRC / "build.py")
build = sys.modules["csrc_build"] = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(build)

ONCE = [(build.CUDA_ONCE, "")]
OF_TYPES = [
    (source, f"-DHEADRACE_TYPE={c_type} -DHEADRACE_NAME={name}")
    for source in build.CUDA_KERNELS
    for name, c_type in build.CUDA_TYPES.items()
]


@pytest.fixture(scope="module")
def nvcc():
    cuda = build.find_cuda()
    if not isinstance(cuda, build.Cuda):
        pytest.skip(cuda)
    return cuda.nvcc


def compiled(nvcc, source, flags, architecture):
    """What ptxas says of the kernels; kept by a digest of all that goes into them."""
    digest = hashlib.sha256(f"{nvcc} {source} {flags} {architecture} {build.CUDA_FLAGS}".encode())
    for path in sorted([*CSRC.glob("cuda/*"), *CSRC.glob("common/*"), CSRC / "cpu" / "attention.h"]):
        digest.update(path.read_bytes())
    kept = KEPT / f"{digest.hexdigest()}.log"
    if not kept.exists():
        KEPT.mkdir(parents=True, exist_ok=True)
        target = f"-gencode=arch=compute_{architecture},code=sm_{architecture}"
        words = f"{build.CUDA_FLAGS} {flags} {target} -Xptxas -v".split()
        done = subprocess.run(
            [nvcc, *words, "-c", CSRC / source, "-o", kept.with_suffix(".o")],
            text=True,
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "warning" not in done.stderr, done.stderr
        kept.with_suffix(".o").unlink()
        kept.write_text(done.stderr)
    return kept.read_text()


def kernels(said):
    """Registers and bytes spilled, stored and loaded, of each kernel."""
    registers = [int(n) for n in re.findall(r"Used (\d+) registers", said)]
    spilled = [int(a) + int(b) for a, b in re.findall(r"(\d+) bytes spill stores, (\d+) bytes spill loads", said)]
    return list(zip(registers, spilled, strict=True))


@pytest.mark.parametrize(
    ("source", "flags"),
    [*ONCE, *((s, f"{f} -DHEADRACE_ONLY_FEATURES=64") for s, f in OF_TYPES if "bf16" in f)],
    ids=lambda text: Path(text).stem if text.endswith(".cu") else "",
)
def test_one_of_every_kernel_compiles_without_spills(nvcc, source, flags):
    found = kernels(compiled(nvcc, source, flags, 80))
    assert found
    assert not any(spilled for _, spilled in found)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["80", "90a"])
@pytest.mark.parametrize(("source", "flags"), [*ONCE, *OF_TYPES], ids=lambda t: t.rpartition("=")[2] or t)
def test_every_kernel_compiles_without_spills(nvcc, source, flags, architecture):
    found = kernels(compiled(nvcc, source, flags, architecture))
    assert len(found) == {"cuda/sums.cu": 2, "cuda/step.cu": 1}.get(source, 4)
    assert not any(spilled for _, spilled in found), found

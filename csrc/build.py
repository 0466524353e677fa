# SPDX-License-Identifier: Apache-2.0
"""Build headrace/_C.so from csrc/ with ninja: one shared object for every Python, and for torch 2.11 and later.

    python csrc/build.py            # headrace/_C.so and headrace/native_build.json
    python csrc/build.py --force    # from nothing

setup.py calls it. The binding uses torch's stable ABI, so that one file serves every torch from 2.11 on, with CUDA or
without. The CUDA kernels are in it where nvcc is (on PATH or under CUDA_HOME), whether or not a GPU is. CXX names the
C++ compiler, HEADRACE_CUDA=0 leaves CUDA out, HEADRACE_CUDA_ARCHS="80 90a 90+PTX" chooses the architectures.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

SOURCES = Path(__file__).resolve().parent
CHECKOUT = SOURCES.parent
OLDEST_TORCH = (2, 11)

COMMON_FLAGS = "-std=c++17 -fPIC -fvisibility=hidden -Wall -Wextra"
BINDING = ["library.cpp", "operations.cpp", "cpu/run.cpp", "cpu/dispatch.cpp"]
KERNELS = "cpu/attention.cpp"

CUDA_BINDING = "cuda/run.cpp"
CUDA_KERNELS = ["cuda/forward.cu", "cuda/backward.cu", "cuda/step.cu"]  # compiled once a type
CUDA_TYPES = {"fp32": "float", "fp16": "Float16", "bf16": "BFloat16"}
CUDA_ONCE = "cuda/sums.cu"
CUDA_ARCHITECTURES = "80 90a 90+PTX"  # mma.sync and cp.async need 80; PTX is for what comes after Hopper
CUDA_FLAGS = "-std=c++17 -O3 -Xcompiler -fPIC,-fvisibility=hidden"
OLDEST_NVCC = (12, 0)

# name: (bytes of a vector, flags). cpu/dispatch.cpp chooses among them when the library is loaded.
INSTRUCTION_SETS = {
    "avx512": (64, "-mavx2 -mfma -mf16c -mavx512f -mavx512dq -mavx512bw -mavx512vl"),
    "avx2": (32, "-mavx2 -mfma -mf16c"),
    "baseline": (16, ""),
}


class CannotBuildError(Exception):
    """The native kernels cannot be built here; the message says why."""


@dataclass(frozen=True)
class Cuda:
    """The CUDA toolkit, and what it compiles for."""

    nvcc: str
    libraries: Path
    architectures: list[str]

    def targets(self) -> str:
        """nvcc's flags; 90a is code for that chip, 90+PTX what a driver compiles for later ones."""
        flags = []
        for name in self.architectures:
            number = name.removesuffix("+PTX")
            code = f"compute_{number}" if name.endswith("+PTX") else f"sm_{number}"
            flags.append(f"-gencode=arch=compute_{number},code={code}")
        return " ".join(flags)


@dataclass(frozen=True)
class Tools:
    """What the build runs."""

    compiler: str
    ninja: str
    torch: Path  # folder of the torch package
    cuda: Cuda | None
    no_cuda_reason: str | None


def find_tools() -> Tools:
    """The compiler, ninja and torch.

    Raises:
        CannotBuildError: one of them is missing or too old.
    """
    compiler = shutil.which(os.environ.get("CXX") or "g++") or shutil.which("clang++")
    if compiler is None:
        raise CannotBuildError("no C++ compiler was found (on Debian: apt-get install g++; or name one with CXX)")
    try:
        import torch
    except ImportError as error:
        raise CannotBuildError(f"torch could not be imported while building: {error}") from None
    version = tuple(int(part) for part in torch.__version__.split(".")[:2])
    if version < OLDEST_TORCH:
        raise CannotBuildError(f"torch {torch.__version__} is too old, its stable ABI is needed from 2.11 on")
    cuda = find_cuda()
    found, reason = (cuda, None) if isinstance(cuda, Cuda) else (None, cuda)
    return Tools(compiler, _find_ninja(), Path(torch.__file__).parent, found, reason)


def find_cuda() -> Cuda | str:
    """The toolkit, or why there is none."""
    if os.environ.get("HEADRACE_CUDA") == "0":
        return "HEADRACE_CUDA=0 was set when the kernels were built"
    home = os.environ.get("CUDA_HOME")
    nvcc = shutil.which(str(Path(home, "bin", "nvcc"))) if home else shutil.which("nvcc")
    if nvcc is None:
        return "nvcc was not found when the kernels were built (put it on PATH, or set CUDA_HOME)"
    said = subprocess.run([nvcc, "--version"], text=True, capture_output=True, check=False).stdout
    release = re.search(r"release (\d+)\.(\d+)", said)
    if release is None or (int(release[1]), int(release[2])) < OLDEST_NVCC:
        return f"nvcc is older than {OLDEST_NVCC[0]}.{OLDEST_NVCC[1]}"
    wanted = os.environ.get("HEADRACE_CUDA_ARCHS", CUDA_ARCHITECTURES).replace(";", " ").split()
    plan = subprocess.run([nvcc, "--dryrun", "-E", "-x", "cu", os.devnull], text=True, capture_output=True, check=False)
    top = re.search(r"TOP=(\S+)", plan.stderr)  # nvcc on PATH may be a script that calls another
    root = Path(top[1] if top else nvcc).resolve()
    places = [*root.glob("lib*"), *root.glob("targets/*/lib")]
    libraries = next((place for place in places if (place / "libcudart_static.a").exists()), None)
    if libraries is None:
        return f"{nvcc} is there, but no libcudart_static.a in its toolkit"
    return Cuda(nvcc, libraries, wanted)


def _find_ninja() -> str:
    beside = Path(sys.executable).with_name("ninja")
    found = str(beside) if beside.exists() else shutil.which("ninja")
    if found is None:
        raise CannotBuildError("ninja was not found (pip install ninja)")
    return found


def instruction_sets() -> dict[str, tuple[int, str]]:
    """Those of this machine's processor family; other families have the baseline, vectorised by the compiler."""
    if platform.machine() in ("x86_64", "AMD64"):
        return INSTRUCTION_SETS
    return {"baseline": INSTRUCTION_SETS["baseline"]}


def ninja_file(tools: Tools) -> str:
    """The build as ninja reads it."""
    sets = instruction_sets()
    include = f"-isystem {tools.torch / 'include'}"
    defines = " ".join(["-DHEADRACE_X86"] * ("avx2" in sets) + ["-DHEADRACE_CUDA"] * (tools.cuda is not None))
    cudart = f"-L{tools.cuda.libraries} -lcudart_static -lrt -ldl" if tools.cuda else ""
    lines = [
        f"cxx = {tools.compiler}",
        f"binding_flags = {COMMON_FLAGS} -O2 {defines} -DTORCH_TARGET_VERSION=0x020b000000000000ULL {include}",
        # no -march=native: the library runs on other machines than the one that builds it
        f"kernel_flags = {COMMON_FLAGS} -O3 -ffp-contract=fast -Wno-psabi",
        "rule compile",
        "  command = $cxx $flags -MMD -MF $out.d -c $in -o $out",
        "  depfile = $out.d",
        "  deps = gcc",
        "  description = $out",
        "rule link",
        f"  command = $cxx -shared $in -o $out -L{tools.torch / 'lib'} -Wl,--no-as-needed -ltorch -ltorch_cpu -lc10 "
        f"-Wl,--as-needed {cudart} -lpthread",
        "  description = $out",
    ]
    objects = []
    for source in BINDING + ([CUDA_BINDING] if tools.cuda else []):
        objects.append(source.replace("/", "_").replace(".cpp", ".o"))
        lines += [f"build {objects[-1]}: compile {SOURCES / source}", "  flags = $binding_flags"]
    for name, (vector_bytes, flags) in sets.items():
        objects.append(f"attention_{name}.o")
        defines = f"-DHEADRACE_ISA={name} -DHEADRACE_VECTOR_BYTES={vector_bytes}"
        lines += [f"build {objects[-1]}: compile {SOURCES / KERNELS}", f"  flags = $kernel_flags {flags} {defines}"]
    if tools.cuda:
        cuda_lines, cuda_objects = _cuda_lines(tools.cuda, tools.compiler)
        lines += cuda_lines
        objects += cuda_objects
    lines += [f"build _C.so: link {' '.join(objects)}", "default _C.so"]
    return "\n".join(lines) + "\n"


def _cuda_lines(cuda: Cuda, compiler: str) -> tuple[list[str], list[str]]:
    """Rules of ninja for what nvcc compiles, and the objects."""
    lines = [
        "rule cuda",
        f"  command = {cuda.nvcc} -ccbin {compiler} {CUDA_FLAGS} $flags {cuda.targets()} "
        "-MMD -MF $out.d -c $in -o $out",
        "  depfile = $out.d",
        "  deps = gcc",
        "  description = $out",
    ]
    jobs = [(CUDA_ONCE, "")]
    jobs += [
        (source, f"-DHEADRACE_TYPE={t} -DHEADRACE_NAME={n}") for source in CUDA_KERNELS for n, t in CUDA_TYPES.items()
    ]
    objects = []
    for source, flags in jobs:
        name = flags.rpartition("=")[2]
        objects.append(f"{Path(source).stem}_{name or 'cuda'}.cu.o")
        lines += [f"build {objects[-1]}: cuda {SOURCES / source}", f"  flags = {flags}"]
    return lines, objects


def build(package: Path = CHECKOUT / "headrace", folder: Path = CHECKOUT / "build" / "native") -> dict[str, object]:
    """Build into ``folder``, put _C.so and native_build.json into ``package``; what native_build.json says.

    Raises:
        CannotBuildError: after native_build.json was written with the reason; an older _C.so is removed.
    """
    try:
        record = _build(package, folder)
    except CannotBuildError as error:
        (package / "_C.so").unlink(missing_ok=True)
        _write(package / "native_build.json", json.dumps({"built": False, "reason": str(error)}, indent=1).encode())
        raise
    _write(package / "native_build.json", json.dumps(record, indent=1).encode())
    return record


def _build(package: Path, folder: Path) -> dict[str, object]:
    tools = find_tools()
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "build.ninja", ninja_file(tools).encode())
    done = subprocess.run(
        [tools.ninja, "-C", str(folder)], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    if done.returncode != 0:
        raise CannotBuildError(f"compiling failed:\n{done.stdout[-4000:]}")
    _write(package / "_C.so", (folder / "_C.so").read_bytes())
    version = subprocess.run([tools.compiler, "--version"], text=True, capture_output=True, check=True).stdout
    return {
        "built": True,
        "compiler": version.splitlines()[0],
        "instruction_sets": list(instruction_sets()),
        "cuda_architectures": tools.cuda.architectures if tools.cuda else [],
        "cuda_reason": tools.no_cuda_reason,
    }


def _write(path: Path, content: bytes) -> None:
    """Whole or not at all; a file that is the same already keeps its time."""
    if path.exists() and path.read_bytes() == content:
        return
    beside = path.with_name(path.name + ".part")
    beside.write_bytes(content)
    beside.replace(path)


def main() -> int:
    """Build for this checkout."""
    parser = argparse.ArgumentParser(description="Build headrace/_C.so from csrc/.")
    parser.add_argument("--force", action="store_true", help="throw away what was compiled before")
    if parser.parse_args().force:
        shutil.rmtree(CHECKOUT / "build" / "native", ignore_errors=True)
    try:
        record = build()
    except CannotBuildError as error:
        print(f"csrc/build.py: {error}", file=sys.stderr)
        return 1
    print(json.dumps(record, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())

# SPDX-License-Identifier: Apache-2.0
"""Build headrace/_C.so from csrc/ with ninja: one shared object for every Python, and for torch 2.11 and later.

    python csrc/build.py            # headrace/_C.so and headrace/native_build.json
    python csrc/build.py --force    # from nothing

setup.py calls it. The binding uses torch's stable ABI, so that one file serves every torch from 2.11 on. CXX names the
compiler.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

SOURCES = Path(__file__).resolve().parent
CHECKOUT = SOURCES.parent
OLDEST_TORCH = (2, 11)

COMMON_FLAGS = "-std=c++17 -fPIC -fvisibility=hidden -Wall -Wextra"
BINDING = ["library.cpp", "sa.cpp", "llsa.cpp", "step.cpp", "cpu/run.cpp", "cpu/dispatch.cpp"]
KERNELS = "cpu/attention.cpp"

# name: (bytes of a vector, flags). cpu/dispatch.cpp chooses among them when the library is loaded.
INSTRUCTION_SETS = {
    "avx512": (64, "-mavx2 -mfma -mf16c -mavx512f -mavx512dq -mavx512bw -mavx512vl"),
    "avx2": (32, "-mavx2 -mfma -mf16c"),
    "baseline": (16, ""),
}


class CannotBuildError(Exception):
    """The native kernels cannot be built here; the message says why."""


@dataclass(frozen=True)
class Tools:
    """What the build runs."""

    compiler: str
    ninja: str
    torch: Path  # folder of the torch package


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
    return Tools(compiler, _find_ninja(), Path(torch.__file__).parent)


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
    x86 = "-DHEADRACE_X86" if "avx2" in sets else ""
    lines = [
        f"cxx = {tools.compiler}",
        f"binding_flags = {COMMON_FLAGS} -O2 {x86} -DTORCH_TARGET_VERSION=0x020b000000000000ULL {include}",
        # no -march=native: the library runs on other machines than the one that builds it
        f"kernel_flags = {COMMON_FLAGS} -O3 -ffp-contract=fast -Wno-psabi",
        "rule compile",
        "  command = $cxx $flags -MMD -MF $out.d -c $in -o $out",
        "  depfile = $out.d",
        "  deps = gcc",
        "  description = $out",
        "rule link",
        f"  command = $cxx -shared $in -o $out -L{tools.torch / 'lib'} -Wl,--no-as-needed -ltorch -ltorch_cpu -lc10 "
        "-Wl,--as-needed -lpthread",
        "  description = $out",
    ]
    objects = []
    for source in BINDING:
        objects.append(source.replace("/", "_").replace(".cpp", ".o"))
        lines += [f"build {objects[-1]}: compile {SOURCES / source}", "  flags = $binding_flags"]
    for name, (vector_bytes, flags) in sets.items():
        objects.append(f"attention_{name}.o")
        defines = f"-DHEADRACE_ISA={name} -DHEADRACE_VECTOR_BYTES={vector_bytes}"
        lines += [f"build {objects[-1]}: compile {SOURCES / KERNELS}", f"  flags = $kernel_flags {flags} {defines}"]
    lines += [f"build _C.so: link {' '.join(objects)}", "default _C.so"]
    return "\n".join(lines) + "\n"


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
        "cuda": None,
        "cuda_reason": "there are no CUDA kernels yet",
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

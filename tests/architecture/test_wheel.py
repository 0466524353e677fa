# SPDX-License-Identifier: Apache-2.0
"""The wheel holds `headrace` and `headrace_upstream`, all of them, and nothing else."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

PACKAGES = {"headrace": "headrace", "headrace_upstream": "upstream_plugins/headrace_upstream"}
NOT_COPIED = shutil.ignore_patterns(
    ".*", "runs", "build", "outputs", "*.egg-info", "__pycache__", "*.so", "native_build.json"
)


def build_wheel(repository: Path, folder: Path, **environment: str) -> Path:
    """Build from a copy of the tree: a build in place would leave, and pick up, leftovers."""
    shutil.copytree(repository, folder / "tree", ignore=NOT_COPIED)
    build = "import sys, setuptools.build_meta as backend; backend.build_wheel(sys.argv[1])"
    command = [sys.executable, "-c", build, str(folder)]
    done = subprocess.run(
        command, cwd=folder / "tree", env=os.environ | environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("headrace-*.whl")
    return wheel


@pytest.fixture(scope="module")
def wheel_without_kernels(tmp_path_factory, repository) -> Path:
    """Built where there is no compiler."""
    folder = tmp_path_factory.mktemp("wheel")
    return build_wheel(repository, folder, PATH=str(folder), CXX="no-such-compiler")


@pytest.fixture(scope="module")
def names_in_wheel(wheel_without_kernels) -> list[str]:
    return zipfile.ZipFile(wheel_without_kernels).namelist()


def test_nothing_but_the_two_packages_is_in_it(names_in_wheel):
    tops = {name.split("/")[0] for name in names_in_wheel}
    assert {top for top in tops if not top.endswith(".dist-info")} == set(PACKAGES)


@pytest.mark.parametrize("package", PACKAGES)
def test_every_module_of_a_package_is_in_it(package, names_in_wheel, repository):
    folder = repository / PACKAGES[package]
    expected = {f"{package}/{path.relative_to(folder).as_posix()}" for path in folder.rglob("*.py")}
    assert expected == {name for name in names_in_wheel if name.startswith(f"{package}/") and name.endswith(".py")}


@pytest.fixture(scope="module")
def wheel_with_kernels(tmp_path_factory, repository) -> Path:
    """Built with whatever compilers are here."""
    if shutil.which("g++") is None:
        pytest.skip("no C++ compiler is here")
    return build_wheel(repository, tmp_path_factory.mktemp("native"), HEADRACE_CUDA_ARCHS="80")


@pytest.mark.slow
def test_the_native_kernels_are_in_it_with_how_they_were_built(wheel_with_kernels):
    wheel = wheel_with_kernels
    assert "-py3-none-" in wheel.name  # no Python symbol in it: one wheel for every Python
    names = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("headrace/")}
    assert {name for name in names if not name.endswith(".py")} == {"headrace/_C.so", "headrace/native_build.json"}


@pytest.mark.slow
def test_cuda_kernels_are_in_it_where_nvcc_is_and_it_loads_on_any_torch(wheel_with_kernels, tmp_path):
    if shutil.which("nvcc") is None:
        pytest.skip("no nvcc is here")
    with zipfile.ZipFile(wheel_with_kernels) as archive:
        archive.extractall(tmp_path / "site")
        assert json.loads(archive.read("headrace/native_build.json"))["cuda_architectures"] == ["80"]
    code = (
        "import torch; from headrace.ops import native; "
        "print(native.STATUS.reason, torch.ops.headrace.has_cuda_kernels())"
    )
    said = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path / "site",
        env=os.environ | {"PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout == "_C.so is loaded True\n"


def test_without_a_compiler_it_has_no_kernels_and_says_why(wheel_without_kernels):
    with zipfile.ZipFile(wheel_without_kernels) as archive:
        assert "headrace/_C.so" not in archive.namelist()
        assert "no C++ compiler" in json.loads(archive.read("headrace/native_build.json"))["reason"]


def test_the_licence_is_in_it(names_in_wheel):
    assert any(name.endswith("/licenses/LICENSE") for name in names_in_wheel)

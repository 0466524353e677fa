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


@pytest.mark.slow
def test_the_native_kernels_are_in_it_with_how_they_were_built(tmp_path, repository):
    if shutil.which("g++") is None:
        pytest.skip("no C++ compiler is here")
    wheel = build_wheel(repository, tmp_path)
    assert "-py3-none-" in wheel.name  # no Python symbol in it: one wheel for every Python
    names = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("headrace/")}
    assert {name for name in names if not name.endswith(".py")} == {"headrace/_C.so", "headrace/native_build.json"}


def test_without_a_compiler_it_has_no_kernels_and_says_why(wheel_without_kernels):
    with zipfile.ZipFile(wheel_without_kernels) as archive:
        assert "headrace/_C.so" not in archive.namelist()
        assert "no C++ compiler" in json.loads(archive.read("headrace/native_build.json"))["reason"]


def test_the_licence_is_in_it(names_in_wheel):
    assert any(name.endswith("/licenses/LICENSE") for name in names_in_wheel)

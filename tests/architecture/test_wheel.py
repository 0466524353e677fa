# SPDX-License-Identifier: Apache-2.0
"""The wheel holds `headrace` and `headrace_upstream`, all of them, and nothing else."""

import shutil
import subprocess
import sys
import zipfile

import pytest

PACKAGES = {"headrace": "headrace", "headrace_upstream": "upstream_plugins/headrace_upstream"}
NOT_COPIED = shutil.ignore_patterns(".*", "runs", "build", "outputs", "*.egg-info", "__pycache__", "*.so")


@pytest.fixture(scope="module")
def names_in_wheel(tmp_path_factory, repository) -> list[str]:
    """Names in a wheel built from a copy of the tree: a build in place would leave, and pick up, leftovers."""
    folder = tmp_path_factory.mktemp("wheel")
    shutil.copytree(repository, folder / "tree", ignore=NOT_COPIED)
    build = "import sys, setuptools.build_meta as backend; backend.build_wheel(sys.argv[1])"
    done = subprocess.run(
        [sys.executable, "-c", build, str(folder)], cwd=folder / "tree", capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("headrace-*.whl")
    return zipfile.ZipFile(wheel).namelist()


def test_nothing_but_the_two_packages_is_in_it(names_in_wheel):
    tops = {name.split("/")[0] for name in names_in_wheel}
    assert {top for top in tops if not top.endswith(".dist-info")} == set(PACKAGES)


@pytest.mark.parametrize("package", PACKAGES)
def test_every_module_of_a_package_is_in_it(package, names_in_wheel, repository):
    folder = repository / PACKAGES[package]
    expected = {f"{package}/{path.relative_to(folder).as_posix()}" for path in folder.rglob("*.py")}
    assert expected == {name for name in names_in_wheel if name.startswith(f"{package}/") and name.endswith(".py")}


def test_the_licence_is_in_it(names_in_wheel):
    assert any(name.endswith("/licenses/LICENSE") for name in names_in_wheel)

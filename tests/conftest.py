# SPDX-License-Identifier: Apache-2.0
"""What all tests share: one thread, one seed, and the real speech beside the checkout when it is there."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch, and for what tests start

import importlib.util
import random
from pathlib import Path

import hypothesis
import numpy
import pytest
import torch

SEED = 20230226
REPOSITORY = Path(__file__).resolve().parents[1]
SHARED_DATA = REPOSITORY.parent / "shared" / "data"
PACKAGE_OF_MARKER = {"fairseq": "fairseq", "s3prl": "s3prl"}

torch.set_num_threads(1)
hypothesis.settings.register_profile("headrace", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("headrace")


def pytest_collection_modifyitems(items):
    """Skip, with a reason, what this machine cannot run."""
    missing = {m: p for m, p in PACKAGE_OF_MARKER.items() if importlib.util.find_spec(p) is None}
    for item in items:
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs an accelerator, and torch sees none"))
        for marker, package in missing.items():
            if item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=f"needs {package}, which is not installed"))


@pytest.fixture(autouse=True)
def seeded():
    """Every test starts from the same random state, whichever tests ran before it."""
    random.seed(SEED)
    numpy.random.seed(SEED)  # noqa: NPY002  fairseq and s3prl draw from the global generator
    torch.manual_seed(SEED)


@pytest.fixture(scope="session")
def repository() -> Path:
    return REPOSITORY


@pytest.fixture(scope="session")
def an4_root() -> Path:
    """AN4 in LibriSpeech's layout: train, dev, test."""
    return _shared_corpus("an4")


@pytest.fixture(scope="session")
def emodb_root() -> Path:
    """EmoDB in IEMOCAP's layout: Session1 .. Session5."""
    return _shared_corpus("emodb")


def _shared_corpus(name: str) -> Path:
    folder = SHARED_DATA / name
    if not folder.is_dir():
        pytest.skip(f"the real speech {Path('../shared/data') / name} does not lie beside this checkout")
    return folder

# SPDX-License-Identifier: Apache-2.0
"""An encoder on disk in both forms, an empty download cache, and s3prl made importable."""

import importlib
import warnings

import pytest
import torch

import encoders
from headrace import checkpoint


@pytest.fixture(scope="session")
def encoder():
    return encoders.small_encoder(torch.float32, mixer="llsa")


@pytest.fixture(scope="session")
def folder(encoder, tmp_path_factory):
    """A portable folder."""
    path = tmp_path_factory.mktemp("portable") / "llsa-small"
    checkpoint.save(encoder, path, {"objective": "none"})
    return path


@pytest.fixture(scope="session")
def fairseq_file(encoder, tmp_path_factory):
    """The same encoder as a checkpoint of fairseq."""
    path = tmp_path_factory.mktemp("fairseq") / "checkpoint_best.pt"
    checkpoint.to_fairseq(encoder, path)
    return path


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The cache that headrace_url fills, empty."""
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    return tmp_path / "hub" / "headrace"


@pytest.fixture(scope="session")
def s3prl_module():
    """Imports a module of s3prl as the launcher does, quietly: its warnings are not ours to repair."""

    def load(name):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importlib.import_module("headrace_downstream.compat").install()
            return importlib.import_module(name)

    return load

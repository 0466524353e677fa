# SPDX-License-Identifier: Apache-2.0
"""A disk that is full."""

import resource
import signal

import pytest


@pytest.fixture
def full_disk():
    """Files of this process may not grow beyond 20 kB: writing fails as it does on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, handler)

# SPDX-License-Identifier: Apache-2.0
"""What the tests of the operations share."""

import pytest
import torch


@pytest.fixture
def poisoned():
    """Memory that torch hands out is full of NaN."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)

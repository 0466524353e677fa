# SPDX-License-Identifier: Apache-2.0
"""What an operation means (``reference``) and who computes it."""

from headrace.ops import reference
from headrace.ops.backend import backend
from headrace.ops.dense import acausal, masked
from headrace.ops.llsa import llsa
from headrace.ops.sa import sa
from headrace.ops.step import llsa_step, sa_step

__all__ = ["acausal", "backend", "llsa", "llsa_step", "masked", "reference", "sa", "sa_step"]

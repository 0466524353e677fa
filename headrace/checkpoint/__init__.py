# SPDX-License-Identifier: Apache-2.0
"""Encoders on disk: the portable folder, and the formats of fairseq and transformers in both directions."""

from headrace.checkpoint.fairseq import (
    FAIRSEQ_FIELDS,
    HEADRACE_FIELDS,
    encoder_config_from_fairseq,
    fairseq_to_headrace,
    from_fairseq,
    headrace_to_fairseq,
    to_fairseq,
)
from headrace.checkpoint.folder import load, save
from headrace.checkpoint.transformers import from_transformers, to_transformers

__all__ = [
    "FAIRSEQ_FIELDS",
    "HEADRACE_FIELDS",
    "encoder_config_from_fairseq",
    "fairseq_to_headrace",
    "from_fairseq",
    "from_transformers",
    "headrace_to_fairseq",
    "load",
    "save",
    "to_fairseq",
    "to_transformers",
]

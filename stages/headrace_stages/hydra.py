# SPDX-License-Identifier: Apache-2.0
"""Paths on the command line of a program that Hydra reads."""

from __future__ import annotations

import re
from pathlib import Path


def hydra_value(path: Path) -> str:
    """A path as the value of a Hydra override: quoted where Hydra's grammar would not take it as it is.

    Raises:
        ValueError: the path holds what Hydra would expand.
    """
    text = str(path)
    if "${" in text:
        raise ValueError(f"{text}: Hydra would expand the '${{' in this path; choose a folder without it")
    if re.fullmatch(r"[A-Za-z0-9_/.+@%*?|: -]*[A-Za-z0-9_/.+@%*?|:-]", text):
        return text
    # backslashes mean themselves, except in front of a quote
    return "'" + re.sub(r"(\\*)('|$)", lambda found: 2 * found[1] + found[2].replace("'", "\\'"), text) + "'"

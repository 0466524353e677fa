# SPDX-License-Identifier: Apache-2.0
"""torch.hub entries: torch.hub.load(<this checkout>, "headrace_local", ckpt=..., source="local"); no installation."""

import sys as _sys
from pathlib import Path as _Path

_sys.path.append(str(_Path(__file__).resolve().parent / "upstream_plugins"))

from headrace_upstream.hubconf import headrace_local, headrace_url

dependencies = ["torch", "numpy", "safetensors"]

__all__ = ["headrace_local", "headrace_url"]

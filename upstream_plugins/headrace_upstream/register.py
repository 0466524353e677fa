# SPDX-License-Identifier: Apache-2.0
"""Make headrace's entries known to s3prl, whose registry is its module ``s3prl.hub``: no fork, no copied files."""

from __future__ import annotations

import importlib

from headrace_upstream.hubconf import ENTRIES


def register() -> None:
    """Set every entry on ``s3prl.hub``, where ``S3PRLUpstream("headrace_local", ...)`` and ``-u headrace_local`` look.

    May be called again at no cost.

    Raises:
        ImportError: s3prl is not installed, or does not import beside this torchaudio; the message says what to do.
    """
    try:
        hub = importlib.import_module("s3prl.hub")
    except ModuleNotFoundError as error:
        if error.name != "s3prl":
            raise
        raise ImportError("s3prl is not installed: pip install '.[s3prl]' in headrace's checkout.") from error
    except (ImportError, AttributeError, OSError) as error:  # OSError: torchaudio's native library
        raise ImportError(
            f"s3prl does not import here, with or without headrace: {error}. Its last release needs torchaudio < 2.9; "
            "with a later one, call headrace_downstream.compat.install() of headrace's checkout before importing s3prl."
        ) from error
    for name, entry in ENTRIES.items():
        setattr(hub, name, entry)

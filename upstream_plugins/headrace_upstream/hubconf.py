# SPDX-License-Identifier: Apache-2.0
"""The upstream entries of headrace: what ``-u NAME`` of s3prl and ``torch.hub.load(repository, NAME)`` call."""

from __future__ import annotations

from collections.abc import Callable

from headrace_upstream.download import forget, resolve
from headrace_upstream.expert import EncoderUpstream, UpstreamExpert, refuse_model_config


def headrace_local(ckpt: str | None, model_config: str | None = None, refresh: bool = False) -> EncoderUpstream:
    """An upstream from a portable folder, a model hub id or a fairseq checkpoint file.

    Args:
        ckpt: where it lies (s3prl: ``-k``).
        model_config: s3prl's ``-g``, which must be left out.
        refresh: s3prl hands it to every entry; what lies here is always read anew.

    Raises:
        ValueError: what is missing, refused or damaged.
    """
    return UpstreamExpert(ckpt, model_config)


def headrace_url(ckpt: str | None, model_config: str | None = None, refresh: bool = False) -> EncoderUpstream:
    """An upstream from a URL: a fairseq checkpoint, or a zip or tar file of a portable folder.

    Args:
        ckpt: the URL (http, https, ftp or file). Downloaded once, to ``torch.hub.get_dir()`` (s3prl: ``--cache_dir``).
        model_config: s3prl's ``-g``, which must be left out.
        refresh: download again although it lies in the cache (s3prl: ``--upstream_refresh``).

    Raises:
        ValueError: model_config was given, or not a URL (the cache is as it was); or what came from it cannot be
            loaded, and does not stay in the cache.
        OSError: the download failed; the cache is as it was.
    """
    refuse_model_config(model_config)  # before anything is downloaded: what fails below, fails because of the content
    path = resolve(ckpt, refresh)
    try:
        return UpstreamExpert(path)
    except ValueError as error:
        forget(str(ckpt))
        raise ValueError(f"{ckpt}: what came from there cannot be loaded. {error}") from None


ENTRIES: dict[str, Callable[..., EncoderUpstream]] = {
    "headrace_local": headrace_local,
    "headrace_url": headrace_url,
}

# SPDX-License-Identifier: Apache-2.0
"""URL -> checkpoint in the cache: one folder a URL, which appears whole or not at all."""

from __future__ import annotations

import hashlib
import os
import shutil
import tarfile
import tempfile
import zipfile
import zlib
from pathlib import Path
from urllib.parse import urlparse

import torch

SCHEMES = ("http", "https", "ftp", "file")


def resolve(url: str | None, refresh: bool = False) -> Path:
    """The fairseq checkpoint file or the portable folder behind a URL, downloaded where the cache does not have it.

    Args:
        refresh: download again; the old one stays until the new one is whole.

    Raises:
        ValueError: not a URL, or an archive that is damaged or holds no portable folder.
        OSError: the download failed, or the disk is full.
    """
    if url is None or urlparse(url).scheme not in SCHEMES:
        raise ValueError(
            f"ckpt (s3prl: -k) must be a URL ({', '.join(SCHEMES)}), got {url!r}; headrace_local reads a path."
        )
    entry = _entry(url)
    if refresh or not entry.is_dir():
        entry.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".partial-", dir=entry.parent) as partial:
            new = Path(partial) / "new"
            new.mkdir()
            _fill(new, url)
            if refresh and entry.is_dir():
                os.replace(entry, Path(partial) / "old")
            try:
                os.replace(new, entry)
            except OSError:
                if not entry.is_dir():  # where it is, another process was first with the same URL
                    raise
    return _checkpoint_in(entry)


def forget(url: str) -> None:
    """Drop what the cache holds of a URL."""
    shutil.rmtree(_entry(url), ignore_errors=True)


def _entry(url: str) -> Path:
    return Path(torch.hub.get_dir()) / "headrace" / hashlib.sha256(url.encode()).hexdigest()[:24]


def _fill(folder: Path, url: str) -> None:
    """Download into ``folder`` and unpack an archive there."""
    file = folder / "checkpoint.pt"
    try:
        torch.hub.download_url_to_file(url, str(file))
    except OSError as error:
        raise OSError(f"{url} could not be downloaded: {error}") from error
    try:
        unpacked = _unpack(file, folder / "unpacked")
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError) as error:
        raise ValueError(f"{url} is a damaged archive: {error}; pack the portable folder again.") from error
    if unpacked:
        file.unlink()
        found = len(list(folder.rglob("config.json")))
        if found != 1:
            raise ValueError(f"{url} must be an archive of one portable folder, got {found} files named config.json.")


def _unpack(file: Path, folder: Path) -> bool:
    """Unpack a zip or tar file, never outside ``folder``; False for anything else, torch's own zip files too."""
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            if any(name.endswith("data.pkl") for name in archive.namelist()):
                return False
            archive.extractall(folder)
        return True
    if tarfile.is_tarfile(file):
        with tarfile.open(file) as archive:
            _unpack_tar(archive, folder)
        return True
    return False


def _unpack_tar(archive: tarfile.TarFile, folder: Path) -> None:
    """Write the plain files of a tar file. Not `extractall(filter="data")`: Python before 3.11.4 has no filters."""
    root = folder.resolve()
    for member in archive:
        target = (root / member.name).resolve()
        if not target.is_relative_to(root) or not (member.isfile() or member.isdir()):
            raise tarfile.TarError(f"{member.name!r} is no plain file inside the archive's own folder")
        if content := archive.extractfile(member):
            target.parent.mkdir(parents=True, exist_ok=True)
            with content, target.open("wb") as file:
                shutil.copyfileobj(content, file)


def _checkpoint_in(entry: Path) -> Path:
    return next((config.parent for config in entry.rglob("config.json")), entry / "checkpoint.pt")

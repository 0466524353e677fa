# SPDX-License-Identifier: Apache-2.0
"""Is there anything to train on? Asked before update 0, not by a worker hours later."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from headrace_labels.shards import digest_of, split_root

PROBED_FILES = 200  # spread over the manifest: enough to see that it points nowhere, cheap on a network disk
MAX_MISSING_SHARE = 0.01
_HOW_TO_MAKE = "Make its manifests with: python manifests/wav2vec_manifest.py CORPUS --dest {data}"


def check_folder(data: str) -> None:
    """Raises ValueError where ``task.data`` is no folder."""
    if not Path(data).is_dir():
        raise ValueError(f"task.data={data} is not a folder. {_HOW_TO_MAKE.format(data=data)}")


def check_manifest(data: str, split: str, min_sample_size: int | None) -> None:
    """Check ``<data>/<split>.tsv``: the root folder, then ``path<tab>samples`` on each line.

    Raises:
        ValueError: no such manifest, a line of another form, nothing long enough in it, or its files are missing.
    """
    path = Path(data) / f"{split}.tsv"
    if not path.is_file():
        raise ValueError(f"task.data={data} has no {split}.tsv. {_HOW_TO_MAKE.format(data=data)}")
    root, *lines = path.read_text().splitlines() or [""]
    entries = [_entry(path, number, line) for number, line in enumerate(lines, start=2)]
    usable = [name for name, num_samples in entries if num_samples >= (min_sample_size or 0)]
    if not usable:
        raise ValueError(
            f"{path} lists {len(entries)} files, none of them with at least {min_sample_size} samples "
            "(task.min_sample_size): there is nothing to train on."
        )
    _check_files(path, Path(root.strip()), usable)


def digest_rows(data: str, split: str) -> str | None:
    """``digest_of`` a split's manifest; None where there is none."""
    path = Path(data) / f"{split}.tsv"
    if not path.is_file():
        return None
    return digest_of(split_root(path)[1])


def _entry(path: Path, number: int, line: str) -> tuple[str, int]:
    name, tab, num_samples = line.strip().partition("\t")
    if not tab or not num_samples.isdecimal():
        raise ValueError(
            f"{path}, line {number}: expected 'path<tab>number of samples', got {line!r}. Make the manifest again."
        )
    return name, int(num_samples)


def _check_files(path: Path, root: Path, names: Sequence[str]) -> None:
    probed = names[:: max(1, len(names) // PROBED_FILES)]
    # "archive.zip:offset:length" is fairseq's notation for audio inside an archive.
    missing = [name for name in probed if not (root / name.partition(".zip:")[0]).exists() and ".zip:" not in name]
    if len(missing) > MAX_MISSING_SHARE * len(probed):
        raise ValueError(
            f"{path} points nowhere: {len(missing)} of {len(probed)} files tried do not exist, the first is "
            f"{root / missing[0]}. Correct the first line (the root folder) or make the manifest again."
        )

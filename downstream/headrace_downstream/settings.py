# SPDX-License-Identifier: Apache-2.0
"""Configurations, and what an experiment folder was started with, so that it goes on with the same settings only."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import yaml

from headrace_downstream.files import write_whole

HERE = Path(__file__).resolve().parent.parent
SETTINGS = "settings.json"
PATHS = ("libri_root", "bucket_file", "dict_path", "root", "meta_data")  # a corpus may move between two calls


def read_config(path: Path) -> dict[str, Any]:
    """Read a configuration of s3prl; a `base:` line names another one beside it, whose values it changes.

    Raises:
        ValueError: the file is missing or is no mapping.
    """
    if not path.is_file():
        raise ValueError(f"-c {path}: no such file; the ones here are {', '.join(sorted(_own_configs()))}")
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as why:
        raise ValueError(f"-c {path}: not YAML ({' '.join(str(why).split())})") from why
    if not isinstance(config, dict):
        raise ValueError(f"-c {path}: expected a mapping with runner, optimizer and downstream_expert")
    base = config.pop("base", None)
    return config if base is None else merged(read_config(path.parent / base), config)


def settle(expdir: Path, settings: dict[str, Any]) -> None:
    """Keep the settings in the folder, or find that it holds the same ones.

    Raises:
        ValueError: the folder was started with others; names the first that differs.
    """
    path = expdir / SETTINGS
    settings = json.loads(json.dumps(settings))
    if not path.is_file():
        write_whole(path, json.dumps(settings, indent=2) + "\n")
        return
    before, now = _flat(json.loads(path.read_text(encoding="utf-8"))), _flat(settings)
    changed = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
    if changed:
        key = changed[0]
        raise ValueError(
            f"-p {expdir}: started with {key} = {before.get(key)}, now {now.get(key)} ({len(changed)} settings differ);"
            " choose another folder, delete this one, or go on with its own settings by -e"
        )


def without_paths(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration less where its corpus lies."""
    datarc = config.get("downstream_expert", {}).get("datarc", {})
    kept = {key: value for key, value in datarc.items() if key not in PATHS}
    return merged(config, {"downstream_expert": {"datarc": None}}) | {"datarc": kept}


def content_digest(path: str | None) -> str | None:
    """Digest of a checkpoint file or of all files of a checkpoint folder; of anything else, its name."""
    if path is None or not Path(path).exists():
        return path
    files = [Path(path)] if Path(path).is_file() else sorted(file for file in Path(path).rglob("*") if file.is_file())
    digest = hashlib.blake2b(digest_size=8)
    for file in files:
        with file.open("rb") as content:
            while block := content.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _own_configs() -> list[str]:
    return [str(path.relative_to(HERE.parent)) for path in HERE.glob("*/config*.yaml")]


def merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """The base with some values changed: mappings by their keys, all else, lists too, as a whole."""
    result = dict(base)
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = merged(result[key], value) if both else value
    return result


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict):
        return {prefix[:-1]: tree}
    return {name: leaf for key, value in tree.items() for name, leaf in _flat(value, f"{prefix}{key}.").items()}

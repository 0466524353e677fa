# SPDX-License-Identifier: Apache-2.0
"""Makes s3prl 0.4.18 import and run on today's torch, torchaudio and huggingface_hub.

s3prl was last released in 2025 and its users have waited since (s3prl#575). Each stand-in below says what went away
and why s3prl needs it; a stand-in takes a place only where nothing is, so that on a machine whose torchaudio works,
that one is used.

Call `install()` before the first `import s3prl`. It may be called again at no cost.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import sys
import types
from typing import Any, NoReturn

import soundfile
import torch


def install() -> list[str]:
    """Put every stand-in that this machine needs into place. Returns the names of all that are in place."""
    for needed, stand_in in STAND_INS.items():
        if needed not in _installed and stand_in():
            _installed.append(needed)
    return list(_installed)


def _torchaudio_extension() -> bool:
    """torchaudio 2.11 from PyPI loads a library built for CUDA (libc10_cuda.so) at import, so beside a CPU-only
    torch the whole package fails. s3prl needs the parts written in Python only; they import once the loader's
    module is stood in for.
    """
    try:
        importlib.import_module("torchaudio")
        return False
    except (ImportError, OSError) as why:  # OSError: the dynamic linker's
        advice = f"torchaudio's library did not load: {why}"
        extension = types.ModuleType("torchaudio._extension")
        extension.__dict__.update(
            _IS_TORCHAUDIO_EXT_AVAILABLE=False,
            _IS_ALIGN_AVAILABLE=False,
            _check_cuda_version=lambda: None,
            fail_if_no_align=lambda function: _refuse(function.__name__, advice),
        )
        sys.modules["torchaudio._extension"] = extension
        importlib.import_module("torchaudio")
        return True


def _torchaudio_load() -> bool:
    """Since 2.9 torchaudio.load hands over to torchcodec, which needs FFmpeg's libraries; soundfile reads what
    s3prl's ASR and emotion datasets hold (FLAC, WAV) to the same float32 samples.
    """
    torchaudio = importlib.import_module("torchaudio")
    if not hasattr(torchaudio, "load_with_torchcodec") or importlib.util.find_spec("torchcodec") is not None:
        return False
    torchaudio.load = load_by_soundfile
    return True


def load_by_soundfile(uri: Any, frame_offset: int = 0, num_frames: int = -1) -> tuple[torch.Tensor, int]:
    """Read audio as torchaudio.load does with its other arguments at their defaults: ([channels, samples] float32,
    rate in Hz).

    Raises:
        ValueError: the file cannot be read or is cut short; the message names it.
    """
    try:
        samples, sample_rate = soundfile.read(uri, num_frames, frame_offset, dtype="float32", always_2d=True)
    except soundfile.SoundFileError as why:
        raise ValueError(
            f"{uri}: cannot be read as audio to its end; prepare the manifests again, they leave it out"
        ) from why
    return torch.from_numpy(samples.T), sample_rate


def _set_audio_backend() -> bool:
    """Left torchaudio in 2.9 with the choice that it made; s3prl calls it at import and in run_downstream.main."""
    torchaudio = importlib.import_module("torchaudio")
    if hasattr(torchaudio, "set_audio_backend"):
        return False
    torchaudio.set_audio_backend = lambda backend: None
    return True


def _sox_effects() -> bool:
    """Left torchaudio in 2.9; s3prl imports two of its functions for tasks other than ASR and emotion."""
    torchaudio = importlib.import_module("torchaudio")
    if hasattr(torchaudio, "sox_effects") or importlib.util.find_spec("torchaudio.sox_effects") is not None:
        return False
    sox_effects = types.ModuleType("torchaudio.sox_effects")
    for name in ("apply_effects_tensor", "apply_effects_file"):
        setattr(
            sox_effects,
            name,
            _refuse(name, "torchaudio dropped sox effects in 2.9; use torchaudio < 2.9 for this task"),
        )
    sys.modules["torchaudio.sox_effects"] = torchaudio.sox_effects = sox_effects
    return True


def _hugging_face_names() -> bool:
    """HfFolder and Repository left huggingface_hub in 1.0; s3prl imports both always and uses them to push results
    to the hub.
    """
    huggingface_hub = importlib.import_module("huggingface_hub")
    missing = [name for name in ("HfFolder", "Repository") if not hasattr(huggingface_hub, name)]
    for name in missing:
        advice = "left huggingface_hub in 1.0; upload the folder with `hf upload` instead"
        setattr(huggingface_hub, name, type(name, (), {"__init__": _refuse(name, advice)}))
    return bool(missing)


def _checkpoint_arguments() -> bool:
    """torch.load has refused unknown classes since 2.6, and s3prl's checkpoints keep the command line as an
    argparse.Namespace (it runs no code when it is read). Resume (-e, -a), -i and evaluate all load them. Everything
    else stays refused.
    """
    if argparse.Namespace in torch.serialization.get_safe_globals():
        return False
    torch.serialization.add_safe_globals([argparse.Namespace])
    return True


def _builtin_isinstance() -> bool:
    """run_downstream.main replaces builtins.isinstance, for a fault of torch before 1.8, by a Python function,
    again at each call: the second run in one process is slower than the first, and every other library meets it
    too.
    """
    helper = importlib.import_module("s3prl.utility.helper")
    helper.hack_isinstance = lambda: None
    return True


def _refuse(name: str, advice: str) -> Any:
    """A function that takes the place of one that is gone: importing it is fine, calling it says what to do."""

    def refused(*args: object, **kwargs: object) -> NoReturn:
        raise RuntimeError(f"{name}: {advice}")

    refused.__name__ = name
    return refused


# What s3prl expects -> what puts it there where it is missing (True if it was). In order: the first makes the next
# importable.
STAND_INS = {
    "torchaudio._extension": _torchaudio_extension,
    "torchaudio.load": _torchaudio_load,
    "torchaudio.set_audio_backend": _set_audio_backend,
    "torchaudio.sox_effects": _sox_effects,
    "huggingface_hub.HfFolder": _hugging_face_names,
    "argparse.Namespace in checkpoints": _checkpoint_arguments,
    "builtins.isinstance": _builtin_isinstance,
}
_installed: list[str] = []

# SPDX-License-Identifier: Apache-2.0
"""Speech from text with libespeak-ng, called through ctypes; library and voices come with `espeakng-loader`.

The library keeps global state and draws from C's `rand` in nearly every voice: what it says depends on all that
it said before. The same calls in a fresh process give the same samples, so each piece of work gets its own.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from pathlib import Path

import numpy as np

OUTPUT_SYNCHRONOUS, DONT_EXIT, CHARS_UTF8, BY_CHARACTER = 2, 0x8000, 1, 1
RATE, VOLUME, PITCH, RANGE = 1, 2, 3, 4
"""Parameter numbers of `espeak_SetParameter` (speak_lib.h)."""


@dataclass(frozen=True)
class Prosody:
    """How to say it: words per minute (80-450), loudness (0-200), pitch and its range (0-100)."""

    rate: int
    volume: int
    pitch: int
    range: int


class Espeak:
    """The one synthesiser of this process.

    Raises:
        ValueError: the package, its library or its voices are missing, with what to install.
    """

    def __init__(self) -> None:
        self._library = load_library()
        self._chunks: list[np.ndarray] = []
        signature = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
        # The library keeps a bare pointer: the object must live as long as it does.
        self._callback = signature(self._collect)
        data = _data_folder()
        self._variants = data / "voices" / "!v"
        self.sample_rate = _initialize(self._library, data)
        self._library.espeak_SetSynthCallback(self._callback)

    def _collect(self, samples: ctypes._Pointer[ctypes.c_short], num_samples: int, _events: int | None) -> int:
        if samples and num_samples > 0:
            self._chunks.append(np.ctypeslib.as_array(samples, (num_samples,)).copy())
        return 0

    def say(self, text: str, voice: str, prosody: Prosody) -> np.ndarray:
        """Return int16 samples [samples] at `sample_rate`; `voice` is e.g. 'en-us+f1'."""
        # A variant that is not there would be passed over silently, and the plain voice heard.
        known = (self._variants / voice.partition("+")[2]).is_file()
        if not known or self._library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise ValueError(f"espeak-ng has no voice {voice!r}; reinstall the package espeakng-loader")
        for number, value in (
            (RATE, prosody.rate),
            (VOLUME, prosody.volume),
            (PITCH, prosody.pitch),
            (RANGE, prosody.range),
        ):
            self._library.espeak_SetParameter(number, value, 0)
        self._chunks.clear()
        encoded = text.encode()
        self._library.espeak_Synth(encoded, len(encoded) + 1, 0, BY_CHARACTER, 0, CHARS_UTF8, None, None)
        self._library.espeak_Synchronize()
        return np.concatenate(self._chunks) if self._chunks else np.zeros(0, np.int16)


def load_library() -> ctypes.CDLL:
    """Load libespeak-ng without starting it; raises ValueError with what to install."""
    try:
        import espeakng_loader

        library = ctypes.CDLL(espeakng_loader.get_library_path())
    except (ImportError, OSError) as error:
        raise ValueError(
            f"cannot load libespeak-ng ({error}); it comes with the pip package: pip install espeakng-loader, or "
            "use a real corpus instead of the synthesised one"
        ) from error
    library.espeak_SetVoiceByName.argtypes = [ctypes.c_char_p]
    library.espeak_SetParameter.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int]
    library.espeak_Initialize.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_int]
    unsigned, pointer = ctypes.c_uint, ctypes.c_void_p
    library.espeak_Synth.argtypes = [
        *(ctypes.c_char_p, ctypes.c_size_t, unsigned, ctypes.c_int, unsigned, unsigned, pointer, pointer)
    ]
    return library


def _data_folder() -> Path:
    import espeakng_loader

    try:
        return Path(espeakng_loader.get_data_path())
    except RuntimeError as error:
        raise ValueError(f"espeak-ng's voices are missing ({error}); reinstall espeakng-loader") from error


def _initialize(library: ctypes.CDLL, data: Path) -> int:
    """Start the library; return its sample rate in Hz."""
    sample_rate = library.espeak_Initialize(OUTPUT_SYNCHRONOUS, 0, str(data).encode(), DONT_EXIT)
    if sample_rate <= 0:
        raise ValueError(f"espeak-ng cannot read its voices in {data}; reinstall the package espeakng-loader")
    return sample_rate

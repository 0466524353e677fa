# SPDX-License-Identifier: Apache-2.0
import argparse
import builtins
import pickle
import sys
import types

import numpy
import pytest
import soundfile
import torch

from headrace_downstream import compat

pytestmark = [
    pytest.mark.s3prl,
    pytest.mark.filterwarnings("ignore"),
]  # s3prl and what it imports warn of many things


@pytest.fixture(autouse=True)
def installed():
    return compat.install()


def test_s3prl_imports_and_a_second_call_changes_nothing(installed):
    before = builtins.isinstance
    import s3prl.hub
    import s3prl.run_downstream

    assert hasattr(s3prl.hub, "fbank")
    assert compat.install() == installed
    s3prl.run_downstream.hack_isinstance()
    assert builtins.isinstance is before


@pytest.mark.parametrize("kind", ["flac", "wav"])
def test_audio_is_read_to_the_samples_that_were_written(tmp_path, kind):
    samples = (numpy.arange(-400, 400) / 512).astype("float32")
    soundfile.write(tmp_path / f"a.{kind}", samples, 16000)
    found, rate = compat.load_by_soundfile(tmp_path / f"a.{kind}")
    assert rate == 16000
    assert found.dtype == torch.float32 and found.shape == (1, 800)
    torch.testing.assert_close(found[0], torch.from_numpy(samples), atol=1 / 32768, rtol=0)
    torch.testing.assert_close(compat.load_by_soundfile(tmp_path / f"a.{kind}", 100, 50)[0], found[:, 100:150])


@pytest.mark.parametrize("damage", [b"", b"no audio"], ids=["empty", "text"])
def test_audio_that_cannot_be_read_is_named(tmp_path, damage):
    (tmp_path / "bad.flac").write_bytes(damage)
    with pytest.raises(ValueError, match=r"bad.flac: cannot be read as audio"):
        compat.load_by_soundfile(tmp_path / "bad.flac")


@pytest.mark.parametrize(
    ("stand_in", "names"),
    [
        ("torchaudio.load", ["load"]),
        ("torchaudio.set_audio_backend", ["set_audio_backend"]),
        ("torchaudio.sox_effects", ["sox_effects"]),
        ("torchaudio._extension", []),
    ],
)
def test_a_torchaudio_that_has_it_keeps_its_own(monkeypatch, stand_in, names):
    working = types.ModuleType("torchaudio")
    for name in names:
        setattr(working, name, f"its own {name}")
    monkeypatch.setitem(sys.modules, "torchaudio", working)
    assert compat.STAND_INS[stand_in]() is False
    assert all(getattr(working, name) == f"its own {name}" for name in names)


def test_a_hub_that_has_the_names_keeps_them(monkeypatch):
    working = types.ModuleType("huggingface_hub")
    working.HfFolder = working.Repository = object
    monkeypatch.setitem(sys.modules, "huggingface_hub", working)
    assert compat.STAND_INS["huggingface_hub.HfFolder"]() is False


def test_what_cannot_be_stood_in_for_says_so_when_it_is_used():
    if "huggingface_hub.HfFolder" not in compat.install():
        pytest.skip("this machine's huggingface_hub has the names")
    import huggingface_hub

    with pytest.raises(RuntimeError, match=r"Repository: left huggingface_hub in 1.0"):
        huggingface_hub.Repository("x")


def test_sox_effects_say_so_when_they_are_used():
    if "torchaudio.sox_effects" not in compat.install():
        pytest.skip("this machine's torchaudio has sox effects")
    from torchaudio.sox_effects import apply_effects_tensor

    with pytest.raises(RuntimeError, match=r"torchaudio dropped sox effects in 2.9"):
        apply_effects_tensor(torch.zeros(1, 10), 16000, [])


class Harmful:
    def __reduce__(self):
        return print, ("a pickle ran code",)


def test_s3prls_checkpoints_load_and_others_stay_refused(tmp_path):
    torch.save({"Args": argparse.Namespace(upstream="fbank"), "Step": 3}, tmp_path / "states-3.ckpt")
    assert torch.load(tmp_path / "states-3.ckpt")["Args"].upstream == "fbank"
    torch.save({"Args": Harmful()}, tmp_path / "harmful.ckpt")
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "harmful.ckpt")

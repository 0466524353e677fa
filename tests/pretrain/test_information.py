# SPDX-License-Identifier: Apache-2.0
"""What labels tell of characters, and what they tell by chance."""

import numpy as np
import pytest
import soundfile

pytest.importorskip("kaldi_native_fbank", reason="kaldi-native-fbank is not installed")
pytest.importorskip("sklearn", reason="scikit-learn is not installed")
from headrace_labels import information
from headrace_labels.shards import read_manifest


def test_labels_that_are_the_characters_tell_everything_and_constant_ones_nothing(tmp_path):
    texts, rate = ["AB BA", "CAB"], 50
    lines = [str(tmp_path)]
    for i, text in enumerate(texts):
        samples = np.zeros(16000)
        samples[4000:12000] = np.random.default_rng(i).normal(0, 0.1, 8000)
        soundfile.write(tmp_path / f"u{i}.flac", samples, 16000)
        lines.append(f"u{i}.flac\t16000")
        (tmp_path / f"{i}.trans.txt").write_text(f"u{i} {text}\n")
    (tmp_path / "train.tsv").write_text("\n".join(lines) + "\n")
    manifest, transcripts = read_manifest(tmp_path, "train"), information.read_transcripts(tmp_path)
    assert transcripts == {"u0": "AB BA", "u1": "CAB"}
    letters = [np.array([ord(letter) for letter in text.replace(" ", "")]) for text in texts]
    exact = [one[information.places(len(one), 0.25, 0.75, rate, rate)] for one in letters]
    assert information.measure(manifest, exact, rate, transcripts).share == pytest.approx(1, abs=0.02)
    nothing = information.measure(manifest, [np.zeros(rate, int)] * 2, rate, transcripts)
    assert (nothing.share, nothing.utterances, nothing.clusters) == (pytest.approx(0, abs=1e-9), 2, 1)
    with pytest.raises(ValueError, match="no utterance of the manifest has a transcript"):
        information.measure(manifest, exact, rate, {})


def test_what_labels_tell_by_chance_is_what_they_know_of_the_utterance_not_of_its_order(tmp_path):
    texts, rate = ["ABABABAB", "CDCDCDCD"], 50
    lines = [str(tmp_path)]
    for i, text in enumerate(texts):
        samples = np.random.default_rng(i).normal(0, 0.1, 16000)
        soundfile.write(tmp_path / f"u{i}.flac", samples, 16000)
        lines.append(f"u{i}.flac\t16000")
        (tmp_path / f"{i}.trans.txt").write_text(f"u{i} {text}\n")
    (tmp_path / "train.tsv").write_text("\n".join(lines) + "\n")
    manifest, transcripts = read_manifest(tmp_path, "train"), information.read_transcripts(tmp_path)
    speaker = information.measure(manifest, [np.full(rate, 0), np.full(rate, 1)], rate, transcripts)
    assert speaker.share == pytest.approx(0.5, abs=0.01)  # one of two bits: which two letters, not which of them
    assert speaker.chance == pytest.approx(speaker.share, abs=0.01)
    letters = [np.array([ord(letter) for letter in text]) for text in texts]
    exact = [one[information.places(len(one), 0, 1, rate, rate)] for one in letters]
    spoken = information.measure(manifest, exact, rate, transcripts)
    assert spoken.share == pytest.approx(1, abs=0.02)
    assert spoken.chance == pytest.approx(0.5, abs=0.25)

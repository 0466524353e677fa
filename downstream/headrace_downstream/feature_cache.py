# SPDX-License-Identifier: Apache-2.0
"""Frozen features, computed once: the upstream's hidden states of each utterance, kept on disk (asked for in
s3prl#134 #191 #390 #546).

s3prl runs the frozen upstream again for every step, every evaluation and every fold. `CachedUpstream` stands in its
place, finds an utterance by its samples, and reads what the upstream said the first time. Everything that is
learned or random (layer weights, SpecAugment, dropout) comes after it and is untouched. It is right only for an
upstream that is frozen, repeats itself, and says the same of an utterance whatever else is in the batch: the last
two are tried out, and another upstream is refused.

On disk: FOLDER/<upstream, weights, settings>/<digest of the samples>.npy, float32 [layers, T, C]; each appears whole,
so that several runs may share a folder and any of them may be killed.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from headrace_downstream.files import appears_whole

# An item alone against in a batch, relative to the largest feature: rounding is 1e-6, group norms and the like 1e-2.
TOLERANCE = 1e-4
PROBE_SAMPLES = (16000, 9999)


class CachedUpstream(nn.Module):
    """Stands in for a frozen s3prl upstream.

    Args:
        upstream: the s3prl upstream, called with a list of waveforms [samples].
        name: the upstream's name, for people who look into the folder.
        source: what it was made from, e.g. a digest of its checkpoint; the same weights may come with other settings.
        feature: the key of the upstream's result that the featurizer selected, e.g. "hidden_states".
        folder: where features are kept.

    Raises:
        ValueError: the upstream's features of an item depend on its companions in the batch, or change from call to
            call; or the folder's features came from other code.
    """

    def __init__(self, upstream: nn.Module, name: str, source: str, feature: str, folder: Path) -> None:
        super().__init__()
        # In a list, so that the upstream is no sub-module: .train() and .parameters() of this wrapper must not
        # reach it.
        self._upstream = [upstream.eval()]
        self.name = name
        self.feature = feature
        probe = [torch.randn(n, generator=torch.Generator().manual_seed(n)) for n in PROBE_SAMPLES]
        self._probe = self._check_independent(probe)
        self.folder = folder / f"{name}-{_digest(upstream, source, feature)}"
        self._check_same_code()

    def get_downsample_rates(self, key: str) -> int:
        """Samples per frame, as the upstream gives it."""
        return self._upstream[0].get_downsample_rates(key)

    def forward(self, wavs: Sequence[Tensor]) -> dict[str, list[Tensor]]:
        """As the upstream: {feature: one [N, T, C] tensor per layer}, zeros past the end of an utterance."""
        items = [self._item(wav) for wav in wavs]
        longest = max(item.shape[1] for item in items)
        batch = torch.zeros(items[0].shape[0], len(items), longest, items[0].shape[2])
        for index, item in enumerate(items):
            batch[:, index, : item.shape[1]] = torch.from_numpy(item)
        return {self.feature: list(batch.to(wavs[0].device))}

    def bytes_per_second(self) -> int:
        """Bytes kept for a second of audio."""
        return self._probe.nbytes * 16000 // PROBE_SAMPLES[0]

    def announce(self, seconds: float) -> str:
        """The line that says how much a corpus of so many seconds will take and where.

        Raises:
            ValueError: there is less room than that.
        """
        needed = int(self.bytes_per_second() * seconds)
        present = sum(path.stat().st_size for path in self.folder.glob("*.npy"))
        free = shutil.disk_usage(self.folder).free
        layers, _, channels = self._probe.shape
        line = (
            f"feature cache: {layers} layers x {channels} channels, at most {needed / 1e9:.2f} GB for "
            f"{seconds / 60:.0f} min of audio ({present / 1e9:.2f} GB there already, {free / 1e9:.0f} GB free) "
            f"in {self.folder}"
        )
        if needed - present > free:
            raise ValueError(f"{line}; there is no room: choose another --feature-cache or leave it out")
        return line

    def _item(self, wav: Tensor) -> np.ndarray:
        samples = wav.detach().cpu().numpy()
        path = self.folder / f"{hashlib.blake2b(samples.tobytes(), digest_size=16).hexdigest()}.npy"
        try:
            return np.load(path)
        except FileNotFoundError:
            item = self._compute([wav])[0]
            _save_whole(path, item)
            return item

    @torch.no_grad()
    def _compute(self, wavs: Sequence[Tensor]) -> list[np.ndarray]:
        """The upstream's own answer: per item [layers, T of the batch, C]."""
        found = self._upstream[0](wavs)[self.feature]
        layers = (
            list(found.values())
            if isinstance(found, dict)
            else list(found)
            if isinstance(found, (list, tuple))
            else [found]
        )
        stacked = torch.stack([layer.float().cpu() for layer in layers])  # [layers, N, T, C]
        return [np.ascontiguousarray(item) for item in stacked.transpose(0, 1).numpy()]

    def _check_independent(self, probe: list[Tensor]) -> np.ndarray:
        """Compare two items run together and alone, over the frames that s3prl's featurizer keeps. Returns the
        first's features.
        """
        device = next((p.device for p in self._upstream[0].parameters()), torch.device("cpu"))
        probe = [wav.to(device) for wav in probe]
        together = self._compute(probe)
        alone = [self._compute([wav])[0] for wav in probe]
        rate = self.get_downsample_rates(self.feature)
        for wav, one, other in zip(probe, alone, together, strict=True):
            kept = min(round(len(wav) / rate), other.shape[1])
            padded = np.zeros_like(other[:, :kept])
            padded[:, : min(kept, one.shape[1])] = one[:, :kept]
            difference = float(np.abs(padded - other[:, :kept]).max()) / max(float(np.abs(other).max()), 1e-12)
            if not difference <= TOLERANCE:
                raise ValueError(
                    f"--feature-cache: upstream {self.name} gives an utterance other features in a batch than alone "
                    f"(by {difference:.1e} of the largest; {TOLERANCE:.0e} allowed), so keeping them would change the "
                    "result; leave --feature-cache out"
                )
        return alone[0]

    def _check_same_code(self) -> None:
        path = self.folder / "probe.array"
        self.folder.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            _save_whole(path, self._probe)
            return
        with path.open("rb") as file:
            kept = np.load(file)
        scale = max(float(np.abs(kept).max()), 1e-12)
        if kept.shape != self._probe.shape or float(np.abs(kept - self._probe).max()) / scale > TOLERANCE:
            raise ValueError(
                f"--feature-cache: {self.folder} holds features of the same weights computed by other code; delete it"
            )


def _digest(upstream: nn.Module, source: str, feature: str) -> str:
    digest = hashlib.blake2b(
        f"{type(upstream).__module__}.{type(upstream).__qualname__}/{source}/{feature}".encode(), digest_size=8
    )
    for name, tensor in sorted(upstream.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _save_whole(path: Path, array: np.ndarray) -> None:
    try:
        with appears_whole(path) as beside, beside.open("wb") as file:
            np.save(file, array)
    except OSError as why:
        raise OSError(
            why.errno,
            f"feature cache: {why.strerror}; free some room or choose another --feature-cache",
            str(path),
        ) from why

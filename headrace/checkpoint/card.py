# SPDX-License-Identifier: Apache-2.0
"""The files of a portable folder that people and other programs read: model card, torch.hub and s3prl entries."""

from __future__ import annotations

import json
from typing import Any

from headrace.config import EncoderConfig, is_acausal
from headrace.frontend import Frontend
from headrace.mixers import MIXERS
from headrace.mixers.chunks import ChunkMixer
from headrace.reach import Blocks, Everything, look_ahead, picture

HUBCONF = '''\
"""torch.hub entry: torch.hub.load(<this folder>, "headrace_local", source="local")."""

from pathlib import Path

dependencies = ["torch", "headrace"]


def headrace_local(ckpt: str | None = None):
    """The s3prl upstream of this folder, or of another portable folder."""
    from headrace_upstream.expert import UpstreamExpert

    return UpstreamExpert(ckpt or str(Path(__file__).resolve().parent))
'''

EXPERT = '''\
"""s3prl upstream of this folder (s3prl: --hub huggingface, or -u headrace_local -k <this folder>)."""

from pathlib import Path

from headrace_upstream.expert import UpstreamExpert as HeadraceExpert


class UpstreamExpert(HeadraceExpert):
    """The encoder that lies beside this file."""

    def __init__(self, ckpt: str | None = None, model_config: str | None = None, refresh: bool = False) -> None:
        super().__init__(str(Path(__file__).resolve().parent), model_config)
'''

REQUIREMENTS = """\
# headrace itself is installed from a checkout of its repository: pip install --no-build-isolation PATH/OF/THE/CHECKOUT
torch
numpy
soundfile
safetensors
"""

CARD = """\
---
library_name: headrace
pipeline_tag: feature-extraction
tags: [speech, streaming, self-supervised]
---
# {title}

A speech encoder of headrace: {mixer}, {num_layers} layers of {embed_dim}, \
{parameters:.2f} M parameters, one frame every {stride_ms:g} ms (front-end: {frontend}).

| latency | |
|---|---|
| window of a frame | {window_ms:g} ms |
| look-ahead of all layers together | {look_ahead} |

Who sees whom in one layer (row: frame, column: what it sees):

```
{picture}
```

## Use

From a checkout of headrace's repository: `pip install --no-build-isolation PATH/OF/THE/CHECKOUT`. It needs torch,
numpy, soundfile and safetensors alone.

```python
import headrace

encoder = headrace.load("path/of/this/folder")
out = encoder(waveforms, num_samples)  # [N, samples] at {sample_rate} Hz{normalized}, [N]
out.hidden_states                      # {num_states} tensors [N, T, {embed_dim}]
```
{sizes}
In s3prl, in the checkout: `python downstream/run.py -m train -u headrace_local -k path/of/this/folder -d asr ...`

## Where it comes from

{provenance}
"""

SIZES = """
Trained for blocks of {lowest} to {highest} frames ({lowest_ms:g} to {highest_ms:g} ms){whole}: one size is chosen \
with `headrace.load(..., changes={{"hop": {lowest}}})`.
"""

FILES = ("README.md", "preprocessor_config.json", "hubconf.py", "expert.py", "requirements.txt")


def files(config: EncoderConfig, provenance: dict[str, Any], num_parameters: int, frontend: Frontend) -> dict[str, str]:
    """Name -> text of FILES: every file of the folder that holds no weights and no configuration."""
    preprocessor = {
        "feature_extractor_type": "Wav2Vec2FeatureExtractor",
        "sampling_rate": config.sample_rate,
        "do_normalize": config.normalize_waveform,
    }
    return {
        "README.md": _card(config, provenance, num_parameters, frontend),
        "preprocessor_config.json": json.dumps(preprocessor, indent=2) + "\n",
        "hubconf.py": HUBCONF,
        "expert.py": EXPERT,
        "requirements.txt": REQUIREMENTS,
    }


def _card(config: EncoderConfig, provenance: dict[str, Any], num_parameters: int, frontend: Frontend) -> str:
    ms = 1000 / config.sample_rate
    stride_ms = frontend.stride_samples * ms
    ahead = None if is_acausal(config) else look_ahead(config.stack)
    has_blocks = not any(isinstance(reach, Everything) for reach in config.reaches)
    rows = [f"| {name} | {value} |" for name, value in provenance.items()]
    return CARD.format(
        title=f"headrace {config.mixer} {config.num_layers} x {config.embed_dim}",
        mixer=config.mixer,
        num_layers=config.num_layers,
        embed_dim=config.embed_dim,
        parameters=num_parameters / 1e6,
        stride_ms=stride_ms,
        frontend=config.frontend,
        window_ms=frontend.window_samples * ms,
        look_ahead="whole utterance (not for live use)"
        if ahead is None
        else f"{ahead} frames = {ahead * stride_ms:g} ms{'' if has_blocks else ' (without chunks not for live use)'}",
        picture=picture(config.stack_under(config.reaches[-1:]), 24),
        sample_rate=config.sample_rate,
        normalized=", each normalised to zero mean and unit variance" if config.normalize_waveform else "",
        num_states=config.num_layers + 1,
        sizes=_sizes(config, stride_ms),
        provenance="\n".join(["| | |", "|---|---|", *rows]) if rows else "Nothing was recorded.",
    )


def _sizes(config: EncoderConfig, stride_ms: float) -> str:
    """What one may choose at load, where training drew reaches."""
    drawn, mixer = config.drawn_reach, MIXERS[config.mixer]
    if drawn is None or Blocks not in mixer.reaches:
        return ""
    lowest, highest = drawn.hop
    return SIZES.format(
        lowest=lowest,
        highest=highest,
        lowest_ms=lowest * stride_ms,
        highest_ms=highest * stride_ms,
        whole=", and for whole utterances, `None`" if drawn.restricted < 1 and issubclass(mixer, ChunkMixer) else "",
    )

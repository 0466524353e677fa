# SPDX-License-Identifier: Apache-2.0
"""The conformer block with ``chunked`` is SpeechBrain's ConformerEncoderLayer, whole and in chunks."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from headrace import Blocks, EncoderConfig, Everything
from headrace.conformer import ConformerBlock

SCRIPT = Path(__file__).with_name("speechbrain_layer.py")
WIDTH, HEADS, FFN, KERNEL = 16, 2, 24, 7
REACHES = {
    "whole": Everything(),
    "chunks alone": Blocks(0, 0, 5, per_block=True),
    "left context of one chunk": Blocks(0, 4, 4, per_block=True),
    "left context of two chunks": Blocks(0, 6, 3, per_block=True),
    "all left context": Blocks(0, None, 4, per_block=True),
    "chunk longer than the utterance": Blocks(0, 0, 30, per_block=True),
}
# ours -> theirs, for a module's weight and bias
NAMES = {
    "ffn1.norm": "ffn_module1.0",
    "ffn1.fc1": "ffn_module1.1.ffn.0",
    "ffn1.fc2": "ffn_module1.1.ffn.3",
    "ffn2.norm": "ffn_module2.0",
    "ffn2.fc1": "ffn_module2.1.ffn.0",
    "ffn2.fc2": "ffn_module2.1.ffn.3",
    "mixer_norm": "norm1.norm",
    "norm": "norm2.norm",
    "mixer.out_proj": "mha_layer.out_proj",
    "convolution.norm": "convolution_module.layer_norm",
    "convolution.gate": "convolution_module.bottleneck.0",
    "convolution.depthwise": "convolution_module.conv",
    "convolution.depthwise_norm": "convolution_module.after_conv.0",
    "convolution.out": "convolution_module.after_conv.2",
}
# SpeechBrain divides scores by the root of the width, not of a head's: queries make up for it
SCALE = (WIDTH // HEADS / WIDTH) ** 0.5


def ours(theirs):
    """Tensors by SpeechBrain's names -> by ours; the same map carries weights over."""
    found = {}
    for mine, name in NAMES.items():
        for part in ("weight", "bias"):
            found[f"{mine}.{part}"] = theirs[f"{name}.{part}"]
    found["convolution.gate.weight"] = found["convolution.gate.weight"].squeeze(-1)  # a convolution of one frame
    q, k, v = theirs["mha_layer.in_proj_weight"].view(HEADS, 3, -1, WIDTH).transpose(0, 1).flatten(1, 2)
    found |= {"mixer.q_proj.weight": q * SCALE, "mixer.k_proj.weight": k, "mixer.v_proj.weight": v}
    found["mixer.relative.distance_proj.weight"] = theirs["mha_layer.linear_pos.weight"]
    for mine, name in (("content_bias", "pos_bias_u"), ("distance_bias", "pos_bias_v")):
        found[f"mixer.relative.{mine}"] = theirs[f"mha_layer.{name}"].reshape(HEADS, -1) * SCALE
    return found


@pytest.fixture(scope="module")
def speechbrain(tmp_path_factory):
    if importlib.util.find_spec("speechbrain") is None:
        pytest.skip("needs speechbrain, which is not installed")
    path = tmp_path_factory.mktemp("speechbrain") / "layer.pt"
    done = subprocess.run([sys.executable, SCRIPT, path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return torch.load(path, weights_only=True)


@pytest.fixture(scope="module")
def block(speechbrain):
    config = EncoderConfig(
        mixer="chunked", block="conformer", positions="relative", num_layers=1, embed_dim=WIDTH, ffn_dim=FFN,
        num_heads=HEADS, conv_kernel=KERNEL,
    )  # fmt: skip
    block = ConformerBlock(config).eval()
    block.load_state_dict(ours(speechbrain["weights"]))
    return block


@pytest.mark.parametrize("name", REACHES)
def test_outputs_and_gradients_are_speechbrains(name, speechbrain, block):
    expected, reach = speechbrain["results"][name], REACHES[name]
    x = speechbrain["x"].clone().requires_grad_()
    lengths = torch.full((2,), x.shape[1])
    y = block(x, lengths, reach, None).flatten(1, -2)[:, : x.shape[1]]
    torch.testing.assert_close(y, expected["y"], atol=1e-5, rtol=1e-5)
    parameters = dict(block.named_parameters())
    found = torch.autograd.grad((y * speechbrain["direction"]).sum(), [x, *parameters.values()])
    theirs = ours(expected["gradients"])
    torch.testing.assert_close(found[0], expected["gradients"]["x"], atol=1e-4, rtol=1e-4)
    for mine, gradient in zip(parameters, found[1:], strict=True):
        is_scaled = mine.startswith(("mixer.q_proj", "mixer.relative.content", "mixer.relative.distance_bias"))
        wanted = theirs[mine] / (SCALE**2 if is_scaled else 1)
        torch.testing.assert_close(gradient, wanted, atol=1e-4, rtol=1e-3)

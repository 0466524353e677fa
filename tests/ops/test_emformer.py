# SPDX-License-Identifier: Apache-2.0
"""LLSA against somebody else's implementation: torchaudio's Emformer without memory, segments of ``hop`` frames and a
right context of A. Its left context is counted from the segment's first frame, as ``per_block`` has it; where B reaches
the utterance's start, so has every other look-back.
"""

import importlib.util
from pathlib import Path

import pytest
import torch

from headrace import ops
from headrace.ops.layout import lay_out, read_back
from headrace.reach import Blocks

NUM_FRAMES, CHANNELS, HEADS, LAYERS = 24, 48, 3, 4
CASES = {
    "LLSA, B beyond T": Blocks(8, 40),
    "LLSA, B unbounded": Blocks(3, None),
    "LLSA, look-back from the block": Blocks(3, 5, 1, per_block=True),
    "blocks of 4": Blocks(2, None, 4),
    "blocks of 4, look-back from the block": Blocks(5, 8, 4, per_block=True),
    "chunks of 6": Blocks(0, 12, 6, per_block=True),
}


@pytest.fixture(scope="module")
def emformer_class():
    """Read from its file: torchaudio itself does not import beside a torch that was built without CUDA."""
    torchaudio = importlib.util.find_spec("torchaudio")
    if torchaudio is None:
        pytest.skip("torchaudio is not installed")
    path = Path(torchaudio.origin).parent / "models" / "emformer.py"
    spec = importlib.util.spec_from_file_location("torchaudio_emformer", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Emformer


def headrace_layer(layer, x, blocks, lengths):
    """One layer of an Emformer over rows in anchor-major layout, x [N, P, hop+A, C]."""
    attention, normed = layer.attention, layer.layer_norm_input(x)
    projected = attention.emb_to_query(normed), *attention.emb_to_key_value(normed).chunk(2, dim=-1)
    q, k, v = (part.unflatten(-1, (HEADS, -1)).permute(0, 3, 1, 2, 4) for part in projected)
    y = ops.llsa(q, k, v, blocks, lengths)
    x = x + attention.out_proj(y.permute(0, 2, 3, 1, 4).flatten(-2))
    return layer.layer_norm_output(x + layer.pos_ff(x))


@pytest.mark.parametrize("backend", ["torch", "native"])
@pytest.mark.parametrize("blocks", CASES.values(), ids=CASES)
def test_llsa_is_emformer_without_memory(emformer_class, blocks, backend):
    torch.manual_seed(0)
    emformer = emformer_class(
        CHANNELS, HEADS, 64, LAYERS, blocks.hop,
        left_context_length=NUM_FRAMES if blocks.look_back is None else blocks.look_back,
        right_context_length=blocks.look_ahead,
    )  # fmt: skip
    frames = torch.randn(2, NUM_FRAMES + blocks.look_ahead, CHANNELS)
    weights = torch.randn(2, NUM_FRAMES, CHANNELS)

    theirs, _ = emformer(frames, torch.full((2,), NUM_FRAMES))
    their_grads = torch.autograd.grad((theirs * weights).sum(), list(emformer.parameters()))

    lengths = torch.full((2,), frames.shape[1])
    with ops.backend(backend):
        x = lay_out(frames, blocks)
        for layer in emformer.emformer_layers:
            x = headrace_layer(layer, x, blocks, lengths)
        ours = read_back(x, blocks, NUM_FRAMES)
        our_grads = torch.autograd.grad((ours * weights).sum(), list(emformer.parameters()))

    assert torch.allclose(ours, theirs, rtol=0, atol=1e-5)
    for ours_, theirs_ in zip(our_grads, their_grads, strict=True):
        assert torch.linalg.vector_norm(ours_ - theirs_) <= 1e-5 * torch.linalg.vector_norm(theirs_)

# SPDX-License-Identifier: Apache-2.0
"""What SpeechBrain's conformer layer computes, in a process of its own: its lazy modules trip hypothesis.

python tests/mixers/speechbrain_layer.py FILE: weights, input, and for each case output and gradients, by torch.save.
"""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "downstream"))

from headrace_downstream.compat import install

install()  # what torchaudio lacks on a CPU build of torch

from speechbrain.lobes.models.transformer.Conformer import ConformerEncoderLayer  # noqa: E402
from speechbrain.lobes.models.transformer.TransformerASR import make_transformer_src_mask  # noqa: E402
from speechbrain.nnet.attention import RelPosEncXL  # noqa: E402
from speechbrain.utils.dynamic_chunk_training import DynChunkTrainConfig  # noqa: E402

WIDTH, HEADS, FFN, KERNEL, FRAMES = 16, 2, 24, 7, 22
CASES = {
    "whole": None,
    "chunks alone": (5, 0),
    "left context of one chunk": (4, 1),
    "left context of two chunks": (3, 2),
    "all left context": (4, None),
    "chunk longer than the utterance": (30, 0),
}


def main(path: str) -> None:
    torch.manual_seed(0)
    layer = ConformerEncoderLayer(WIDTH, FFN, HEADS, kernel_size=KERNEL, attention_type="RelPosMHAXL").eval()
    for parameter in layer.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    x = torch.randn(2, FRAMES, WIDTH, requires_grad=True)
    direction = torch.randn(2, FRAMES, WIDTH)
    results = {}
    for name, case in CASES.items():
        config = None if case is None else DynChunkTrainConfig(*case)
        mask = make_transformer_src_mask(x, dynchunktrain_config=config)
        y, _ = layer(x, src_mask=mask, pos_embs=RelPosEncXL(WIDTH)(x), dynchunktrain_config=config)
        grads = torch.autograd.grad((y * direction).sum(), [x, *layer.parameters()])
        names = ["x", *(name for name, _ in layer.named_parameters())]
        results[name] = {"y": y.detach(), "gradients": dict(zip(names, grads, strict=True))}
    content = {"weights": layer.state_dict(), "x": x.detach(), "direction": direction, "results": results}
    torch.save(content, path)


if __name__ == "__main__":
    main(sys.argv[1])

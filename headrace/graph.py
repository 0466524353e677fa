# SPDX-License-Identifier: Apache-2.0
"""One tick as a CUDA graph: a live step on a GPU is hundreds of small kernels, which a graph launches at once."""

from __future__ import annotations

import torch

from headrace.encoder import SpeechEncoder
from headrace.streaming import StreamState

WARM_UP_TICKS = 3


class GraphedTick:
    """``encoder.tick`` of all slots of a state, captured once and replayed.

        tick = GraphedTick(encoder, state)
        hidden_states, exists = tick(samples)  # [slots, hop * stride_samples]; overwritten by the next call

    Raises:
        ValueError: the encoder or the state is not on a GPU.
    """

    def __init__(self, encoder: SpeechEncoder, state: StreamState) -> None:
        like = next(encoder.parameters())
        if like.device.type != "cuda":
            raise ValueError(f"a CUDA graph needs an encoder on a GPU, got {like.device}; encoder.cuda() first.")
        self._state = state
        before = state.clone()
        self._samples = like.new_zeros(state.num_slots, encoder.clock(state).tick_samples)
        stream = torch.cuda.Stream(like.device)
        stream.wait_stream(torch.cuda.current_stream(like.device))
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP_TICKS):  # what libraries do at their first call must not be captured
                encoder.tick(self._samples, state)
        torch.cuda.current_stream(like.device).wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._result = encoder.tick(self._samples, state)
        for name, x in before.tensors.items():
            state.tensors[name].copy_(x)

    def __call__(self, samples: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        """What ``encoder.tick(samples, state)`` returns; the state moves on."""
        self._samples.copy_(samples)
        self._graph.replay()
        return self._result

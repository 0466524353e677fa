// SPDX-License-Identifier: Apache-2.0
// SA and LLSA backward, in one launch, without atomics or sums to add up: a gradient is computed by the
// thread block that owns it. With P = softmax and dS = P (dP - dO . y),
//
//   queries' tiles  dQ = dS K, of 64 query rows and the keys that they see (tile.cuh)
//   keys' tiles     dV = P^T dO and dK = dS^T Q, of 64 keys and the query rows that see them (key_tile.cuh)
//
// Weights are computed again on either side: seven products where one pass with shared sums would need five;
// what counts at the window sizes of speech is bytes moved, and those are nearly the same.
//
// Tile         a thread block of 4 warps, 16 of its own rows a warp; the other side's rows pass by, kChunk at
//              a time, and a warp touches only the groups of 16 that its rows see, or are seen by
// Loads        all threads, by 16-byte asynchronous copies; rows that do not exist are zeros
// Shared       2 (64 + kChunk) rows of kFeatures numbers and 16 bytes, and 5 numbers for each passing query:
//              37 KB for 64 16-bit features, 70 KB for 128; 71 KB and 83 KB in fp32
// Accumulates  in fp32. P and dS are rounded to the tensors' type before they meet the other side's rows
#pragma once

#include "backward_keys.cuh"
#include "backward_queries.cuh"

namespace headrace::cuda {

// One thread block of the grid.
template <typename Traits>
HEADRACE_DEVICE void compute_tile(const Planned<Backward>& planned, void* shared) {
    if (tile_of_head(planned.plan) < planned.plan.tiles) {
        backward_queries<Traits>(planned, shared);
    } else {
        backward_keys<Traits>(planned, shared);
    }
}

}  // namespace headrace::cuda

// SPDX-License-Identifier: Apache-2.0
// The kernel around `compute_tile` of forward.cuh or backward.cuh, and its launch: one thread block a tile.
// Include it after one of them.
#pragma once

#include "kernels.cuh"

namespace headrace::cuda {

template <typename Traits>
__global__ void __launch_bounds__(kThreads, Traits::kBlocksOfProcessor)
    tile_kernel(const __grid_constant__ Planned<typename Traits::Call> planned) {
    extern __shared__ __align__(16) unsigned char shared[];
    compute_tile<Traits>(planned, shared);
}

template <template <typename, int> class TraitsOf, typename Call>
int launch_tiles(const Call& call, void* stream) {
    const Planned<Call> planned(call);
    return with_features<TraitsOf, HEADRACE_TYPE>(call.of.features, [&](auto traits) {
        using Traits = decltype(traits);
        const int64_t blocks = call.of.items * call.of.heads * Traits::tiles(planned.plan);
        return launch(tile_kernel<Traits>, blocks, kThreads, Traits::kSharedBytes, planned, stream);
    });
}

}  // namespace headrace::cuda

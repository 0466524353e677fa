// SPDX-License-Identifier: Apache-2.0
// Sizes of a thread block of backward, and what lies where in its shared memory.
#pragma once

#include "call.h"
#include "warp.cuh"

namespace headrace::cuda {

template <typename Element_, int kFeatures_>
struct BackwardTraits {
    using Call = Backward;
    using Element = Element_;
    static constexpr int kFeatures = kFeatures_;
    static constexpr int kStride = RowsOf<Element, kFeatures>::kStride;
    static constexpr int kChunk = sizeof(Element) == 2 || kFeatures <= 64 ? 64 : kFeatures <= 96 ? 32 : 16;
    // Bounds the registers of a thread: as it compiles without spills for every type and architecture.
    static constexpr int kBlocksOfProcessor = kFeatures <= 32 ? 3 : 2;
    // dK and dV in one pass; sums of more features would fill the registers.
    static constexpr bool kBothAtOnce = kFeatures <= 64;
    static constexpr int kColumnBytes = 5 * 4 * kChunk;
    static constexpr int kSharedBytes = 2 * (kTileRows + kChunk) * kStride * sizeof(Element) + kColumnBytes;
    HEADRACE_BOTH static int tiles(const Plan& plan) { return plan.backward_tiles(); }  // of a head
};

// Pointers into shared memory: two tensors' rows of this side, two of the other.
template <typename Traits>
struct BackwardMemory {
    using Element = typename Traits::Element;
    Element *first_own, *second_own, *first_other, *second_other;
    void* columns;

    HEADRACE_DEVICE explicit BackwardMemory(void* shared) {
        first_own = static_cast<Element*>(shared);
        second_own = first_own + kTileRows * Traits::kStride;
        first_other = second_own + kTileRows * Traits::kStride;
        second_other = first_other + Traits::kChunk * Traits::kStride;
        columns = second_other + Traits::kChunk * Traits::kStride;
    }
};

// What this thread block computes: a tile of one head of one item.
HEADRACE_DEVICE int row_of_heads(const Plan& plan) {
    return block() / plan.backward_tiles();
}
HEADRACE_DEVICE int tile_of_head(const Plan& plan) {
    return block() % plan.backward_tiles();
}

}  // namespace headrace::cuda

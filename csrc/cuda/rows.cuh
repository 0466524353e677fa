// SPDX-License-Identifier: Apache-2.0
// Rows of 16-bit numbers from global memory to shared memory and back.
#pragma once

#include "tile.cuh"

namespace headrace::cuda {

// Rows in shared memory are 8 numbers longer than they need be: 8 rows then start in different banks, for any
// kFeatures that is a multiple of 16.
template <int kFeatures>
struct RowsOf {
    static_assert(kFeatures % 16 == 0, "products go over 16 features at a time");
    static constexpr int kStride = kFeatures + 8;
    static constexpr int kPieces = kFeatures / 8;  // of 16 bytes
};

// Whether 16 bytes can be copied at a time.
template <typename Element>
HEADRACE_BOTH bool is_aligned(const Element* data, const Strides& strides, int64_t features) {
    const int64_t all = strides.item | strides.head | strides.block | strides.row | features;
    return (reinterpret_cast<uintptr_t>(data) % 16 == 0) && all % 8 == 0;
}

// Rows [0, count) by all threads: row i from `from(i)`, zeros where that is null, and zeros behind
// `features`.
template <int kFeatures, int kThreads, typename Element, typename From>
HEADRACE_DEVICE void load_rows(Element* to, int count, int64_t features, bool aligned, const From& from) {
    using Rows = RowsOf<kFeatures>;
    for (int piece = thread(); piece < count * Rows::kPieces; piece += kThreads) {
        const int row = piece / Rows::kPieces, column = piece % Rows::kPieces * 8;
        const Element* source = from(row);
        Element* place = to + row * Rows::kStride + column;
        if (aligned) {
            const bool exists = source != nullptr && column < features;
            copy16_async(place, exists ? source + column : nullptr, exists);
        } else {
            for (int i = 0; i < 8; ++i) {
                place[i] = source != nullptr && column + i < features ? source[column + i] : Element{0};
            }
        }
    }
}

// 16 rows of shared memory by one warp: row i to `to(i)`, unless that is null.
template <int kFeatures, typename Element, typename To>
HEADRACE_DEVICE void store_rows_of_warp(const Element* from, int64_t features, bool aligned, const To& to) {
    using Rows = RowsOf<kFeatures>;
    for (int piece = thread() % kWarp; piece < 16 * Rows::kPieces; piece += kWarp) {
        const int row = piece / Rows::kPieces, column = piece % Rows::kPieces * 8;
        Element* place = to(row);
        if (place == nullptr || column >= features) continue;
        const Element* source = from + row * Rows::kStride + column;
        if (aligned) {
            *reinterpret_cast<uint4*>(place + column) = *reinterpret_cast<const uint4*>(source);
        } else {
            for (int i = 0; i < 8 && column + i < features; ++i) place[column + i] = source[i];
        }
    }
}

}  // namespace headrace::cuda

// SPDX-License-Identifier: Apache-2.0
// Rows of numbers from global memory to shared memory and back, 16 bytes at a time where they are aligned.
#pragma once

#include "tile.cuh"

namespace headrace::cuda {

// Rows in shared memory are 16 bytes longer than they need be: 8 rows then start in different banks, for any
// kFeatures that is a multiple of 16.
template <typename Element, int kFeatures>
struct RowsOf {
    static_assert(kFeatures % 16 == 0, "products go over 16 features at a time");
    static constexpr int kPerPiece = 16 / sizeof(Element);
    static constexpr int kPieces = kFeatures / kPerPiece;
    static constexpr int kStride = kFeatures + kPerPiece;
    // that share a row
    static constexpr int kLanes = kPieces <= 4 ? 4 : kPieces <= 8 ? 8 : kPieces <= 16 ? 16 : 32;
};

// Whether 16 bytes can be copied at a time.
template <typename Element>
HEADRACE_BOTH bool is_aligned(const Element* data, const Strides& strides, int64_t features) {
    const int64_t all = strides.item | strides.head | strides.block | strides.row | features;
    return reinterpret_cast<uintptr_t>(data) % 16 == 0 && all % (16 / sizeof(Element)) == 0;
}

// One head of a tensor in global memory.
template <typename Element>
struct Source {
    Element* data;  // of the head
    const Strides& strides;
    bool aligned;

    template <typename Data>
    HEADRACE_DEVICE Source(const View<Data>& view, int item, int head, int features)
        : data(static_cast<Element*>(view.data) + item * view.strides.item + head * view.strides.head),
          strides(view.strides),
          aligned(is_aligned(static_cast<Element*>(view.data), view.strides, features)) {}

    HEADRACE_DEVICE Element* at(Place place) const {
        return data + place.block * strides.block + place.row * strides.row;
    }
    HEADRACE_DEVICE Element* at_if_exists(Place place) const { return place.exists ? at(place) : nullptr; }
};

// Rows [0, count) by all threads: row i from `from(i)`, zeros where that is null, and zeros behind the
// features. Neighbouring threads take the pieces of one row.
template <int kFeatures, int kThreads, typename Element, typename From>
HEADRACE_DEVICE void load_rows(Element* to, int count, int features, bool aligned, const From& from) {
    using Rows = RowsOf<Element, kFeatures>;
    const int column = thread() % Rows::kLanes * Rows::kPerPiece;
    if (column >= kFeatures) return;
#pragma unroll 2
    for (int row = thread() / Rows::kLanes; row < count; row += kThreads / Rows::kLanes) {
        const Element* source = from(row);
        Element* place = to + row * Rows::kStride + column;
        if (aligned) {
            if (source != nullptr && column < features) {
                copy16_async(place, source + column);
            } else {
                *reinterpret_cast<uint4*>(place) = uint4{0, 0, 0, 0};
            }
        } else {
            for (int i = 0; i < Rows::kPerPiece; ++i) {
                place[i] = source != nullptr && column + i < features ? source[column + i] : Element{0};
            }
        }
    }
}

// 16 rows of shared memory by one warp: row i to `to(i)`, unless that is null.
template <int kFeatures, typename Element, typename To>
HEADRACE_DEVICE void store_rows_of_warp(const Element* from, int features, bool aligned, const To& to) {
    using Rows = RowsOf<Element, kFeatures>;
    const int lane = thread() % kWarp, column = lane % Rows::kLanes * Rows::kPerPiece;
    if (column >= features) return;
    for (int row = lane / Rows::kLanes; row < 16; row += kWarp / Rows::kLanes) {
        Element* place = to(row);
        if (place == nullptr) continue;
        const Element* source = from + row * Rows::kStride + column;
        if (aligned) {
            *reinterpret_cast<uint4*>(place + column) = *reinterpret_cast<const uint4*>(source);
        } else {
            for (int i = 0; i < Rows::kPerPiece && column + i < features; ++i) place[column + i] = source[i];
        }
    }
}

// The product of a row of shared memory with one of global memory, which may be null, by the four lanes that
// share a row of sums.
template <int kFeatures, typename Element>
HEADRACE_DEVICE float dot_of_row(const Element* shared_row, const Element* row, int features, bool aligned) {
    using Rows = RowsOf<Element, kFeatures>;
    float sum = 0;
    for (int column = thread() % 4 * Rows::kPerPiece; row != nullptr && column < features;
         column += 4 * Rows::kPerPiece) {
        Element piece[Rows::kPerPiece];
        if (aligned) {
            *reinterpret_cast<uint4*>(piece) = *reinterpret_cast<const uint4*>(row + column);
        } else {
            for (int i = 0; i < Rows::kPerPiece; ++i) {
                piece[i] = column + i < features ? row[column + i] : Element{0};
            }
        }
#pragma unroll
        for (int i = 0; i < Rows::kPerPiece; ++i)
            sum += to_float(piece[i]) * to_float(shared_row[column + i]);
    }
    return sum_of_row(sum);
}

}  // namespace headrace::cuda

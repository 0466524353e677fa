// SPDX-License-Identifier: Apache-2.0
// Rows of tensors in scratch memory, in the compute type: as rows, and transposed.
#pragma once

#include "attention.h"
#include "element.h"
#include "units.h"
#include "vector.h"

namespace headrace::HEADRACE_ISA {
namespace {  // one copy for each instruction set: see vector.h

template <typename Element>
const Element* row_of(const View<const void>& view, int64_t item, int64_t head, int64_t block, int64_t row) {
    return static_cast<const Element*>(view.data) + item * view.strides.item + head * view.strides.head +
           block * view.strides.block + row * view.strides.row;
}
template <typename Element>
Element* row_of(const View<void>& view, int64_t item, int64_t head, int64_t block, int64_t row) {
    return static_cast<Element*>(view.data) + item * view.strides.item + head * view.strides.head +
           block * view.strides.block + row * view.strides.row;
}

// Hands out pieces of one allocation, each on a boundary of 64 bytes.
class Arena {
  public:
    explicit Arena(void* memory) : memory_(static_cast<char*>(memory)) {}

    template <typename Real>
    Real* take(int64_t count) {
        Real* piece = reinterpret_cast<Real*>(memory_ + used_);
        used_ += static_cast<size_t>(round_up(count * static_cast<int64_t>(sizeof(Real)), 64));
        return piece;
    }
    size_t used() const { return used_; }

  private:
    char* memory_;  // null: only counting
    size_t used_ = 0;
};

constexpr int64_t kFewRows = 2;  // fewer are copied number by number

// rows [count, features] -> columns [features, count]: to[d * to_stride + i] = rows(i)[d].
template <typename Real>
void transpose_rows(MatrixB<Real> rows, int64_t count, int64_t padded_features, Real* to, int64_t to_stride) {
    constexpr int lanes = kLanes<Real>;
    int64_t i = 0;
    for (; i + lanes <= count; i += lanes) {
        for (int64_t d = 0; d < padded_features; d += lanes) {
            transpose_square(rows.from(i).data + d, rows.row_stride, to + d * to_stride + i, to_stride);
        }
    }
    if (count - i > kFewRows) {
        for (int64_t d = 0; d < padded_features; d += lanes) {
            transpose_square<Real>(rows.from(i).data + d, rows.row_stride, count - i, to + d * to_stride + i,
                                   to_stride);
        }
        return;
    }
    for (; i < count; ++i) {  // what stands behind the last column is not looked at
        for (int64_t d = 0; d < padded_features; ++d) to[d * to_stride + i] = rows.from(i).data[d];
    }
}

// Keys or values of a window: as rows, side by side whatever their strides in the tensor, and transposed.
template <typename Real>
struct Packed {
    Real* rows;     // [size, padded features]
    Real* columns;  // [padded features, stride]
    int64_t padded_features, stride;

    MatrixB<Real> from(int64_t row) const { return {rows + row * padded_features, padded_features}; }

    static Packed take(Arena& arena, int64_t size, int64_t padded_features) {
        Packed packed;
        packed.stride = round_up(size, kLanes<Real>) + kLanes<Real>;
        packed.padded_features = padded_features;
        packed.rows = arena.take<Real>(size * padded_features);
        packed.columns = arena.take<Real>(packed.stride * padded_features);
        return packed;
    }
};

// Zeros into the first `rows` rows of blocks [first, end), as far as they lie at or past the length.
template <typename Element>
void clear_padding(const Attention& of, const View<void>& view, int64_t rows, int64_t item, int64_t head,
                   int64_t first, int64_t end) {
    const int64_t length = of.length(item);
    for (int64_t b = first; b < end; ++b) {
        for (int64_t r = maximum(0, minimum(rows, length - b * of.reach.hop)); r < rows; ++r) {
            write_zeros(row_of<Element>(view, item, head, b, r), of.features);
        }
    }
}

}  // namespace
}  // namespace headrace::HEADRACE_ISA

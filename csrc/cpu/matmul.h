// SPDX-License-Identifier: Apache-2.0
// C = A B or C += A B for the small products of an attention tile, in registers: up to kRows rows of C by
// kVectors vectors.
//
// A is read one number at a time and may be laid out in any way (a transposed A costs nothing); B and C have
// unit stride along their columns. Columns are rounded up to whole vectors: B must be readable, and C
// writable, up to there. Every element of C is a sum over k in rising order, whatever the shape of the blocks
// around it.
#pragma once

#include "vector.h"

namespace headrace::HEADRACE_ISA {

constexpr int kRows = 6;
constexpr int kVectors = HEADRACE_VECTOR_BYTES == 64 ? 4 : 2;

template <typename Real>
struct MatrixA {
    const Real* data;
    int64_t row_stride, column_stride;
};

template <typename Real>
struct MatrixB {
    const Real* data;
    int64_t row_stride;

    __attribute__((always_inline)) MatrixB from(int64_t row) const {
        return {data + row * row_stride, row_stride};
    }
};

template <typename Real>
struct MatrixC {
    Real* data;
    int64_t row_stride;
};

template <typename Real, bool kAccumulate, int M, int V>
static inline __attribute__((always_inline)) void block_product(MatrixA<Real> a, MatrixB<Real> b,
                                                                MatrixC<Real> c, int64_t depth) {
    constexpr int lanes = kLanes<Real>;
    Vec<Real> sums[M][V];
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) {
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v)
            sums[m][v] = kAccumulate ? load(c.data + m * c.row_stride + v * lanes) : Vec<Real>{};
    }
    for (int64_t k = 0; k < depth; ++k) {
        Vec<Real> row[V];
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) row[v] = load(b.data + k * b.row_stride + v * lanes);
#pragma GCC unroll 8
        for (int m = 0; m < M; ++m) {
            const Vec<Real> x = splat(a.data[m * a.row_stride + k * a.column_stride]);
#pragma GCC unroll 4
            for (int v = 0; v < V; ++v) sums[m][v] += x * row[v];
        }
    }
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) {
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) store(c.data + m * c.row_stride + v * lanes, sums[m][v]);
    }
}

template <typename Real, bool kAccumulate, int M>
static inline void rows_product(MatrixA<Real> a, MatrixB<Real> b, MatrixC<Real> c, int64_t columns,
                                int64_t depth) {
    constexpr int lanes = kLanes<Real>;
    int64_t vectors = (columns + lanes - 1) / lanes;
    for (; vectors >= kVectors; vectors -= kVectors) {
        block_product<Real, kAccumulate, M, kVectors>(a, b, c, depth);
        b.data += kVectors * lanes;
        c.data += kVectors * lanes;
    }
    for (; vectors > 0; --vectors) {
        block_product<Real, kAccumulate, M, 1>(a, b, c, depth);
        b.data += lanes;
        c.data += lanes;
    }
}

template <typename Real, bool kAccumulate>
static inline void few_rows_product(MatrixA<Real> a, MatrixB<Real> b, MatrixC<Real> c, int64_t rows,
                                    int64_t columns, int64_t depth) {
    static_assert(kRows == 6, "a case for every number of rows");
    switch (rows) {
        case 6:
            return rows_product<Real, kAccumulate, 6>(a, b, c, columns, depth);
        case 5:
            return rows_product<Real, kAccumulate, 5>(a, b, c, columns, depth);
        case 4:
            return rows_product<Real, kAccumulate, 4>(a, b, c, columns, depth);
        case 3:
            return rows_product<Real, kAccumulate, 3>(a, b, c, columns, depth);
        case 2:
            return rows_product<Real, kAccumulate, 2>(a, b, c, columns, depth);
        case 1:
            return rows_product<Real, kAccumulate, 1>(a, b, c, columns, depth);
        default:
            return;
    }
}

// Rows in pieces of nearly one size: 9 as 5 and 4, since 3 rows alone would leave registers idle.
template <typename Real, bool kAccumulate>
static inline void any_product(MatrixA<Real> a, MatrixB<Real> b, MatrixC<Real> c, int64_t rows,
                               int64_t columns, int64_t depth) {
    for (int64_t pieces = (rows + kRows - 1) / kRows; pieces > 0; --pieces) {
        const int64_t piece = (rows + pieces - 1) / pieces;
        few_rows_product<Real, kAccumulate>(a, b, c, piece, columns, depth);
        a.data += piece * a.row_stride;
        c.data += piece * c.row_stride;
        rows -= piece;
    }
}

// C = A B.
template <typename Real>
static inline void product(MatrixA<Real> a, MatrixB<Real> b, MatrixC<Real> c, int64_t rows, int64_t columns,
                           int64_t depth) {
    any_product<Real, false>(a, b, c, rows, columns, depth);
}

// C += A B.
template <typename Real>
static inline void add_product(MatrixA<Real> a, MatrixB<Real> b, MatrixC<Real> c, int64_t rows,
                               int64_t columns, int64_t depth) {
    any_product<Real, true>(a, b, c, rows, columns, depth);
}

}  // namespace headrace::HEADRACE_ISA

// SPDX-License-Identifier: Apache-2.0
// Vectors of the instruction set that a file is compiled for: HEADRACE_VECTOR_BYTES wide (64 AVX-512, 32
// AVX2, 16 baseline). Only the compilers' vector extension is used, so that one source serves every
// instruction set.
//
// The kernels are compiled once for each instruction set. Nothing in them may become a symbol that the linker
// merges across those objects (a template of the standard library, an inline function outside HEADRACE_ISA's
// namespace): the merged copy could hold instructions that the machine lacks. Hence no <vector>, no
// <algorithm> here.
#pragma once

#include <cstdint>
#include <cstring>

#ifndef HEADRACE_ISA
#error "compile with -DHEADRACE_ISA=<namespace> -DHEADRACE_VECTOR_BYTES=<16|32|64>"
#endif

extern "C" double exp2(double);

namespace headrace::HEADRACE_ISA {

template <typename Real>
struct Vector {
    static constexpr int kLanes = HEADRACE_VECTOR_BYTES / static_cast<int>(sizeof(Real));
    typedef Real Type __attribute__((vector_size(HEADRACE_VECTOR_BYTES)));
};

template <typename Real>
using Vec = typename Vector<Real>::Type;
template <typename Real>
constexpr int kLanes = Vector<Real>::kLanes;

using IntVec = int32_t __attribute__((vector_size(HEADRACE_VECTOR_BYTES)));

template <typename Real>
static inline Vec<Real> load(const Real* from) {
    Vec<Real> v;
    memcpy(&v, from, sizeof(v));
    return v;
}

template <typename Real>
static inline void store(Real* to, Vec<Real> v) {
    memcpy(to, &v, sizeof(v));
}

template <typename Real>
static inline Vec<Real> splat(Real x) {
    return x - Vec<Real>{};  // not `+`: -0 + 0 is 0, so that the compiler would really add
}

constexpr double kLog2E = 1.4426950408889634074;
constexpr double kLn2 = 0.69314718055994530942;

// 2^x for x <= 0 (up to rounding), 0 where that is below 2^-126; NaN stays. fp32: n = round(x), a polynomial
// on the rest, n added to its exponent; relative error about 1e-7.
static inline Vec<float> power_of_2(Vec<float> x) {
    const Vec<float> lowest = splat(-126.0f);
    const auto is_nothing = x < lowest;
    x = is_nothing ? lowest : x;
    const float magic =
        12582912.0f;  // 1.5 * 2^23: what is added to it is rounded, and stands in its lowest bits
    const Vec<float> whole = x + magic;
    const Vec<float> rest = x - (whole - magic);
    Vec<float> p = splat(1.53458075e-4f);
    p = p * rest + 1.339993118e-3f;
    p = p * rest + 9.618488974e-3f;
    p = p * rest + 5.550328777e-2f;
    p = p * rest + 2.402264689e-1f;
    p = p * rest + 6.931472057e-1f;
    p = p * rest + 1.0f;  // exact for 0: the weight of a lone key is 1
    IntVec exponent, bits;
    memcpy(&exponent, &whole, sizeof(exponent));
    memcpy(&bits, &p, sizeof(bits));
    bits += exponent << 23;
    memcpy(&p, &bits, sizeof(p));
    return is_nothing ? Vec<float>{} : p;
}

static inline Vec<double> power_of_2(Vec<double> x) {
    for (int i = 0; i < kLanes<double>; ++i) x[i] = exp2(x[i]);
    return x;
}

// Lane i gets lane i + kBy, around the end.
template <typename Real, int kBy>
static inline Vec<Real> turned(Vec<Real> v) {
    constexpr int n = kLanes<Real>;
    if constexpr (n == 2) {
        return __builtin_shufflevector(v, v, 1, 0);
    } else if constexpr (n == 4) {
        return __builtin_shufflevector(v, v, kBy, (1 + kBy) % n, (2 + kBy) % n, (3 + kBy) % n);
    } else if constexpr (n == 8) {
        return __builtin_shufflevector(v, v, kBy, (1 + kBy) % n, (2 + kBy) % n, (3 + kBy) % n, (4 + kBy) % n,
                                       (5 + kBy) % n, (6 + kBy) % n, (7 + kBy) % n);
    } else {
        static_assert(n == 16, "vectors of 2, 4, 8 or 16 lanes");
        return __builtin_shufflevector(v, v, kBy, (1 + kBy) % n, (2 + kBy) % n, (3 + kBy) % n, (4 + kBy) % n,
                                       (5 + kBy) % n, (6 + kBy) % n, (7 + kBy) % n, (8 + kBy) % n,
                                       (9 + kBy) % n, (10 + kBy) % n, (11 + kBy) % n, (12 + kBy) % n,
                                       (13 + kBy) % n, (14 + kBy) % n, (15 + kBy) % n);
    }
}

template <typename Real, int kBy = kLanes<Real> / 2>
static inline Real sum(Vec<Real> v) {
    v += turned<Real, kBy>(v);
    if constexpr (kBy > 1) {
        return sum<Real, kBy / 2>(v);
    } else {
        return v[0];
    }
}

template <typename Real, int kBy = kLanes<Real> / 2>
static inline Real largest(Vec<Real> v) {
    const Vec<Real> other = turned<Real, kBy>(v);
    v = other > v ? other : v;
    if constexpr (kBy > 1) {
        return largest<Real, kBy / 2>(v);
    } else {
        return v[0];
    }
}

// 0, 1, 2, ... as reals: exact far beyond any window.
template <typename Real>
static inline Vec<Real> lane_numbers() {
    Vec<Real> v;
    for (int i = 0; i < kLanes<Real>; ++i) v[i] = static_cast<Real>(i);
    return v;
}

// Transpose kLanes x kLanes: rows i and i + kLanes / 2 are interleaved, log2(kLanes) times.
template <typename Real>
static inline void transpose(Vec<Real> (&rows)[kLanes<Real>]) {
    constexpr int n = kLanes<Real>;
    for (int stage = 1; stage < n; stage *= 2) {
        Vec<Real> mixed[n];
#pragma GCC unroll 16
        for (int i = 0; i < n / 2; ++i) {
            if constexpr (n == 2) {
                mixed[2 * i] = __builtin_shufflevector(rows[i], rows[i + n / 2], 0, 2);
                mixed[2 * i + 1] = __builtin_shufflevector(rows[i], rows[i + n / 2], 1, 3);
            } else if constexpr (n == 4) {
                mixed[2 * i] = __builtin_shufflevector(rows[i], rows[i + n / 2], 0, 4, 1, 5);
                mixed[2 * i + 1] = __builtin_shufflevector(rows[i], rows[i + n / 2], 2, 6, 3, 7);
            } else if constexpr (n == 8) {
                mixed[2 * i] = __builtin_shufflevector(rows[i], rows[i + n / 2], 0, 8, 1, 9, 2, 10, 3, 11);
                mixed[2 * i + 1] =
                    __builtin_shufflevector(rows[i], rows[i + n / 2], 4, 12, 5, 13, 6, 14, 7, 15);
            } else {
                static_assert(n == 16, "vectors of 2, 4, 8 or 16 lanes");
                mixed[2 * i] = __builtin_shufflevector(rows[i], rows[i + n / 2], 0, 16, 1, 17, 2, 18, 3, 19,
                                                       4, 20, 5, 21, 6, 22, 7, 23);
                mixed[2 * i + 1] = __builtin_shufflevector(rows[i], rows[i + n / 2], 8, 24, 9, 25, 10, 26, 11,
                                                           27, 12, 28, 13, 29, 14, 30, 15, 31);
            }
        }
#pragma GCC unroll 16
        for (int i = 0; i < n; ++i) rows[i] = mixed[i];
    }
}

// rows[j] + d, d = 0 .. kLanes - 1, for j < count and zeros after that -> columns: to[d * to_stride + j].
template <typename Real>
static inline void transpose_square(const Real* rows, int64_t row_stride, int64_t count, Real* to,
                                    int64_t to_stride) {
    constexpr int n = kLanes<Real>;
    Vec<Real> square[n];
    for (int j = 0; j < n; ++j) square[j] = j < count ? load(rows + j * row_stride) : Vec<Real>{};
    transpose<Real>(square);
    for (int j = 0; j < n; ++j) store(to + j * to_stride, square[j]);
}

template <typename Real>
static inline void transpose_square(const Real* rows, int64_t row_stride, Real* to, int64_t to_stride) {
    transpose_square<Real>(rows, row_stride, kLanes<Real>, to, to_stride);
}

#if HEADRACE_VECTOR_BYTES == 32
// Whole squares of fp32 on AVX2: shuffles there do not cross the halves of a register, so halves of rows j
// and j + 4 are loaded side by side, and 24 instructions do in place of 48.
typedef float Half __attribute__((vector_size(16)));

static inline Half load_half(const float* from) {
    Half half;
    memcpy(&half, from, sizeof(half));
    return half;
}

static inline void transpose_square(const float* rows, int64_t row_stride, float* to, int64_t to_stride) {
    for (int half = 0; half < 2; ++half) {
        Vec<float> r[4];
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j) {
            const Half low = load_half(rows + j * row_stride + 4 * half);
            const Half high = load_half(rows + (j + 4) * row_stride + 4 * half);
            r[j] = __builtin_shufflevector(low, high, 0, 1, 2, 3, 4, 5, 6, 7);
        }
        const Vec<float> a = __builtin_shufflevector(r[0], r[1], 0, 8, 1, 9, 4, 12, 5, 13);
        const Vec<float> b = __builtin_shufflevector(r[2], r[3], 0, 8, 1, 9, 4, 12, 5, 13);
        const Vec<float> c = __builtin_shufflevector(r[0], r[1], 2, 10, 3, 11, 6, 14, 7, 15);
        const Vec<float> d = __builtin_shufflevector(r[2], r[3], 2, 10, 3, 11, 6, 14, 7, 15);
        float* column = to + 4 * half * to_stride;
        store(column, __builtin_shufflevector(a, b, 0, 1, 8, 9, 4, 5, 12, 13));
        store(column + to_stride, __builtin_shufflevector(a, b, 2, 3, 10, 11, 6, 7, 14, 15));
        store(column + 2 * to_stride, __builtin_shufflevector(c, d, 0, 1, 8, 9, 4, 5, 12, 13));
        store(column + 3 * to_stride, __builtin_shufflevector(c, d, 2, 3, 10, 11, 6, 7, 14, 15));
    }
}
#endif

}  // namespace headrace::HEADRACE_ISA

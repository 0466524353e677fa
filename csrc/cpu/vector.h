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

extern "C" double exp(double);

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

// e^x for x <= 0 (up to rounding). fp32: n = round(x / ln 2), a degree-6 polynomial on the rest, n put into
// the exponent; relative error about 1e-7. Below -87 the result is that of -87: a weight that no sum notices.
static inline Vec<float> exponential(Vec<float> x) {
    const Vec<float> lowest = splat(-87.0f);
    x = x > lowest ? x : lowest;
    const float magic = 12582912.0f;  // 1.5 * 2^23: adding and taking it away rounds to a whole number
    Vec<float> n = x * 1.44269504088896341f + magic;
    n = n - magic;
    Vec<float> rest = x - n * 0.693359375f;
    rest = rest + n * 2.12194440e-4f;
    Vec<float> p = splat(1.0f / 720);
    p = p * rest + 1.0f / 120;
    p = p * rest + 1.0f / 24;
    p = p * rest + 1.0f / 6;
    p = p * rest + 0.5f;
    p = p * rest + 1.0f;
    p = p * rest + 1.0f;
    const IntVec exponent = (__builtin_convertvector(n, IntVec) + 127) << 23;
    Vec<float> scale;
    memcpy(&scale, &exponent, sizeof(scale));
    return p * scale;
}

static inline Vec<double> exponential(Vec<double> x) {
    for (int i = 0; i < kLanes<double>; ++i) x[i] = exp(x[i]);
    return x;
}

template <typename Real>
static inline Real sum(Vec<Real> v) {
    Real total = 0;
    for (int i = 0; i < kLanes<Real>; ++i) total += v[i];
    return total;
}

template <typename Real>
static inline Real largest(Vec<Real> v) {
    Real most = v[0];
    for (int i = 1; i < kLanes<Real>; ++i) most = v[i] > most ? v[i] : most;
    return most;
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

}  // namespace headrace::HEADRACE_ISA

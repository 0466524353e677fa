// SPDX-License-Identifier: Apache-2.0
// y = x W^T + bias with 8-bit weights: each row of x and each row of W (an output channel) has a scale of its
// own, so that no row's result depends on its companions. Products and sums are exact integers; only the
// rounding of x to 8 bits and of the result to fp32 lose anything.
//
// Rows of x are held as 16-bit integers, weights as 8-bit ones that are widened as they are read: pairs of
// 16-bit products are added into 32 bits in one instruction on every x86, and cannot overflow (127 * 127 *
// 2^17 fits).
#pragma once

#include "few_rows.h"

#if defined(__SSE2__)
#include <immintrin.h>  // only functions that are always inlined: see vector.h
#endif

namespace headrace::HEADRACE_ISA {
namespace {  // one copy for each instruction set: see vector.h

constexpr int kInt16Lanes = HEADRACE_VECTOR_BYTES / 2;
static_assert(kInt8Padding % kInt16Lanes == 0, "rows are padded to whole vectors");

using Int16Vec = int16_t __attribute__((vector_size(HEADRACE_VECTOR_BYTES)));
using Int16HalfVec = int16_t __attribute__((vector_size(HEADRACE_VECTOR_BYTES / 2)));
using Int8HalfVec = int8_t __attribute__((vector_size(HEADRACE_VECTOR_BYTES / 2)));

// Products of neighbours, added in pairs.
inline IntVec dot_pairs(Int16Vec a, Int16Vec b) {
#if HEADRACE_VECTOR_BYTES == 64
    return (IntVec)_mm512_madd_epi16((__m512i)a, (__m512i)b);
#elif HEADRACE_VECTOR_BYTES == 32
    return (IntVec)_mm256_madd_epi16((__m256i)a, (__m256i)b);
#elif defined(__SSE2__)
    return (IntVec)_mm_madd_epi16((__m128i)a, (__m128i)b);
#else
    IntVec sums;
    for (int i = 0; i < kInt16Lanes / 2; ++i) sums[i] = a[2 * i] * b[2 * i] + a[2 * i + 1] * b[2 * i + 1];
    return sums;
#endif
}

// The next weights, widened. On AVX2 the vector extension would do it by halves.
inline Int16Vec widened(const int8_t* from) {
#if HEADRACE_VECTOR_BYTES == 64
    return (Int16Vec)_mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i*)from));
#elif HEADRACE_VECTOR_BYTES == 32
    return (Int16Vec)_mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i*)from));
#else
    Int8HalfVec narrow;
    memcpy(&narrow, from, sizeof(narrow));
    return __builtin_convertvector(narrow, Int16Vec);
#endif
}

// One row of x -> 16-bit integers of at most 127, zeros up to the padding; returns the scale, NaN where a
// number is not finite.
inline float quantize_row(const float* x, int64_t depth, int64_t padded, int16_t* to) {
    constexpr int lanes = kLanes<float>;
    const int64_t whole = depth / lanes * lanes;
    Vec<float> top{};
    IntVec is_nan{};
    for (int64_t k = 0; k < whole; k += lanes) {
        const Vec<float> v = load(x + k), size = v < 0.0f ? -v : v;
        top = size > top ? size : top;
        is_nan |= v != v;
    }
    float most = largest<float>(top);
    for (int i = 0; i < lanes; ++i) most = is_nan[i] ? __builtin_nanf("") : most;
    for (int64_t k = whole; k < depth; ++k) {
        const float size = x[k] < 0 ? -x[k] : x[k];
        most = size > most || size != size ? size : most;
    }
    const bool is_finite = most < 3e38f;
    const float inverse = is_finite && most > 0 ? 127 / most : 0;
    const float magic = 12582912.0f;  // see power_of_2: the number stands in the lowest bits
    for (int64_t k = 0; k < whole; k += lanes) {
        const Vec<float> shifted = (is_finite ? load(x + k) : Vec<float>{}) * inverse + magic;
        IntVec bits;
        memcpy(&bits, &shifted, sizeof(bits));
        const auto narrow = __builtin_convertvector(bits, Int16HalfVec);
        memcpy(to + k, &narrow, sizeof(narrow));
    }
    for (int64_t k = whole; k < padded; ++k) {
        const float shifted = (k < depth && is_finite ? x[k] : 0) * inverse + magic;
        int32_t bits;
        memcpy(&bits, &shifted, sizeof(bits));
        to[k] = static_cast<int16_t>(bits & 0xffff);
    }
    return is_finite ? most / 127 : most - most;
}

template <int M, int N>
void int8_block(const Int8Product& call, int64_t row, int64_t channel) {
    const int16_t* x = call.x + row * call.padded;
    const int8_t* weight = call.weight + channel * call.padded;
    IntVec sums[M][N];
#pragma GCC unroll 16
    for (int i = 0; i < M * N; ++i) sums[i / N][i % N] = IntVec{};
    for (int64_t k = 0; k < call.padded; k += kInt16Lanes) {
        for (int byte = 0; byte < N * kInt16Lanes; byte += 64)
            __builtin_prefetch(weight + N * k + byte + kAheadBytes);
        Int16Vec weights[N];
#pragma GCC unroll 4
        for (int n = 0; n < N; ++n) weights[n] = widened(weight + n * call.padded + k);
#pragma GCC unroll 4
        for (int m = 0; m < M; ++m) {
            Int16Vec values;
            memcpy(&values, x + m * call.padded + k, sizeof(values));
#pragma GCC unroll 4
            for (int n = 0; n < N; ++n) sums[m][n] += dot_pairs(values, weights[n]);
        }
    }
#pragma GCC unroll 16
    for (int i = 0; i < M * N; ++i) {
        const int m = i / N, n = i % N;
        const float bias = call.bias == nullptr ? 0 : call.bias[channel + n];
        call.y[(row + m) * call.channels + channel + n] =
            static_cast<float>(sum<int32_t>(sums[m][n])) *
                (call.x_scales[row + m] * call.weight_scales[channel + n]) +
            bias;
    }
}

struct Int8Block {
    template <int M, int N>
    static void run(const Int8Product& call, int64_t row, int64_t channel) {
        int8_block<M, N>(call, row, channel);
    }
};

void int8_product(const Int8Product& call, int64_t first, int64_t end) {
    channels_of<Int8Block>(call, first, end);
}

void int8_quantize(const Int8Rows& call, int64_t first, int64_t end) {
    for (int64_t row = first; row < end; ++row) {
        call.scales[row] =
            quantize_row(call.x + row * call.stride, call.depth, call.padded, call.to + row * call.padded);
    }
}

}  // namespace
}  // namespace headrace::HEADRACE_ISA

// SPDX-License-Identifier: Apache-2.0
// The two products that attention is made of, for the 16 rows of a warp and 16 others: by tensor cores in
// 16-bit types, lane by lane in fp32 (never in TF32). Both hold their results alike: lane l has rows l / 4
// and l / 4 + 8, and of each 8 columns those at 2 (l % 4) and the next.
#pragma once

#include "rows.cuh"

namespace headrace::cuda {

// Of 16 rows with 16 others: [other / 8, row / 8, other % 2].
using Square = float[8];
HEADRACE_BOTH constexpr int half_of_entry(int e) {
    return e / 2 % 2;
}
HEADRACE_BOTH constexpr int column_of_entry(int e, int lane) {
    return e / 4 * 8 + lane % 4 * 2 + e % 2;
}

template <typename Element, int kFeatures>
struct Products {
    static constexpr int kStride = RowsOf<Element, kFeatures>::kStride;
    static constexpr int kSteps = kFeatures / 16;

    // The warp's own rows: in registers, or, where they would fill those, where this lane reads them.
    static constexpr bool kHeld = kFeatures <= 64;
    struct Own {
        uint32_t parts[kHeld ? kSteps : 1][4];
        const Element* row;
    };
    // Of the warp's rows with features: [feature / 8][row / 8, feature % 2].
    using Sums = float[2 * kSteps][4];

    // From shared memory, row 0 of 16.
    HEADRACE_DEVICE static void load(Own& to, const Element* rows) {
        const int lane = thread() % kWarp;
        to.row = rows + lane % 16 * kStride + lane / 16 * 8;
        if constexpr (kHeld) {
#pragma unroll
            for (int step = 0; step < kSteps; ++step) load_matrices(to.parts[step], to.row + step * 16);
        }
    }

    // own others^T
    HEADRACE_DEVICE static void multiply(const Own& own, const Element* others, Square& to) {
        const int lane = thread() % kWarp;
        const Element* row = others + (lane / 16 * 8 + lane % 8) * kStride + lane / 8 % 2 * 8;
        float both[2][4] = {};
#pragma unroll(kHeld ? kSteps : 2)
        for (int step = 0; step < kSteps; ++step) {
            uint32_t a[4], b[4];
            load_matrices(b, row + step * 16);
            if constexpr (kHeld) {
                for (int i = 0; i < 4; ++i) a[i] = own.parts[step][i];
            } else {
                load_matrices(a, own.row + step * 16);
            }
            multiply_add(both[0], a, b[0], b[1], Element{});
            multiply_add(both[1], a, b[2], b[3], Element{});
        }
#pragma unroll
        for (int e = 0; e < 8; ++e) to[e] = both[e / 4][e % 4];
    }

    // sums += weights others; weights are rounded to Element first.
    HEADRACE_DEVICE static void accumulate(Sums& sums, const Square& weights, const Element* others) {
        const int lane = thread() % kWarp;
        const uint32_t a[4] = {
            pack(weights[0], weights[1], Element{}), pack(weights[2], weights[3], Element{}),
            pack(weights[4], weights[5], Element{}), pack(weights[6], weights[7], Element{})};
        const Element* row = others + (lane / 8 % 2 * 8 + lane % 8) * kStride + lane / 16 * 8;
#pragma unroll
        for (int step = 0; step < kSteps; ++step) {
            uint32_t b[4];
            load_matrices_transposed(b, row + step * 16);
            multiply_add(sums[2 * step], a, b[0], b[1], Element{});
            multiply_add(sums[2 * step + 1], a, b[2], b[3], Element{});
        }
    }
};

template <int kFeatures>
struct Products<float, kFeatures> {
    static constexpr int kStride = RowsOf<float, kFeatures>::kStride;
    static constexpr int kSteps = kFeatures / 16;

    // The warp's own rows stay in shared memory, from which lanes that share a row read together.
    struct Own {
        const float* row;
    };
    using Sums = float[2 * kSteps][4];

    HEADRACE_DEVICE static void load(Own& to, const float* rows) {
        to.row = rows + thread() % kWarp / 4 * kStride;
    }

    HEADRACE_DEVICE static void multiply(const Own& own, const float* others, Square& to) {
        const float* other = others + thread() % 4 * 2 * kStride;
#pragma unroll
        for (int e = 0; e < 8; ++e) to[e] = 0;
#pragma unroll 4
        for (int d = 0; d < kFeatures; d += 4) {
            const float4 x[2] = {piece(own.row + d), piece(own.row + 8 * kStride + d)};
#pragma unroll
            for (int c = 0; c < 4; ++c) {
                const float4 y = piece(other + (c / 2 * 8 + c % 2) * kStride + d);
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                    float& sum = to[c / 2 * 4 + half * 2 + c % 2];
                    sum += x[half].x * y.x;
                    sum += x[half].y * y.y;
                    sum += x[half].z * y.z;
                    sum += x[half].w * y.w;
                }
            }
        }
    }

    HEADRACE_DEVICE static void accumulate(Sums& sums, const Square& weights, const float* others) {
        const int lane = thread() % kWarp;
#pragma unroll
        for (int other = 0; other < 16; ++other) {
            const int holder = lane / 4 * 4 + other % 8 / 2, entry = other / 8 * 4 + other % 2;
            const float upper = value_of_lane(weights[entry], holder);
            const float lower = value_of_lane(weights[entry + 2], holder);
            const float* row = others + other * kStride + lane % 4 * 2;
#pragma unroll
            for (int d = 0; d < 2 * kSteps; ++d) {
                const float2 y = *reinterpret_cast<const float2*>(row + d * 8);
                sums[d][0] += upper * y.x;
                sums[d][1] += upper * y.y;
                sums[d][2] += lower * y.x;
                sums[d][3] += lower * y.y;
            }
        }
    }

  private:
    HEADRACE_DEVICE static float4 piece(const float* from) { return *reinterpret_cast<const float4*>(from); }
};

// Sums, each times `factor(row / 8)`, into 16 rows of shared memory.
template <int kFeatures, typename Element, typename Sums, typename Factor>
HEADRACE_DEVICE void write_sums(const Sums& sums, Element* rows, const Factor& factor) {
    const int lane = thread() % kWarp;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const float by = factor(half);
        Element* to = rows + (lane / 4 + 8 * half) * RowsOf<Element, kFeatures>::kStride + lane % 4 * 2;
#pragma unroll
        for (int d = 0; d < kFeatures / 8; ++d) {
            store_pair(to + d * 8, sums[d][2 * half] * by, sums[d][2 * half + 1] * by);
        }
    }
}

// Run for D rounded up to the features that a kernel exists for.
template <template <typename, int> class Traits, typename Element, typename Run>
int with_features(int64_t features, const Run& run) {
#ifdef HEADRACE_ONLY_FEATURES
    return run(Traits<Element, HEADRACE_ONLY_FEATURES>{});  // to see in seconds that it compiles
#endif
    if (features <= 32) return run(Traits<Element, 32>{});
    if (features <= 64) return run(Traits<Element, 64>{});
    if (features <= 96) return run(Traits<Element, 96>{});
    return run(Traits<Element, 128>{});
}

}  // namespace headrace::cuda

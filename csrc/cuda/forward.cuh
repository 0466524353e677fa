// SPDX-License-Identifier: Apache-2.0
// SA and LLSA forward.
//
// Tile         64 rows of one head and the keys that they see; a thread block of 4 warps, 16 rows a warp
// Loads        all threads bring the rows, then the tile's keys and values, kChunk at a time (one chunk at
// the
//              window sizes of speech in 16-bit types), by 16-byte asynchronous copies; rows that do not
//              exist are zeros
// Shared       (64 + 2 kChunk) rows of kFeatures numbers and 16 bytes: 64.5 KB for 64 16-bit features, 87 KB
//              for 128; 70 KB and 99 KB in fp32
// Registers    a warp touches only the groups of 16 keys that its rows see; scores of 10 groups (160 keys; 8
// for
//              D over 96) are held at once and their softmax is done in one go; what is beyond is added by
//              the running softmax
// Accumulates  in fp32: scores, softmax, sums. Weights are rounded to the tensors' type before they meet the
//              values
#pragma once

#include "warp.cuh"

namespace headrace::cuda {

template <typename Element_, int kFeatures_>
struct ForwardTraits {
    using Call = Forward;
    using Element = Element_;
    static constexpr int kFeatures = kFeatures_;
    static constexpr int kStride = RowsOf<Element, kFeatures>::kStride;
    static constexpr int kChunk = (kFeatures <= 64 ? 192 : 128) * 2 / sizeof(Element);
    static constexpr int kBlocksOfProcessor = 2;              // bounds the registers of a thread
    static constexpr int kGroups = kFeatures <= 96 ? 10 : 8;  // of 16 keys, held in registers at once
    static constexpr int kSharedBytes = (kTileRows + 2 * kChunk) * kStride * sizeof(Element);
    static_assert(kChunk % 16 == 0, "keys come in groups of 16");
    HEADRACE_BOTH static int tiles(const Plan& plan) { return plan.tiles; }  // of a head
};

// The rows of one warp and their running softmax.
template <typename Traits>
class ForwardWarp {
    using Element = typename Traits::Element;
    using Product = Products<Element, Traits::kFeatures>;
    static constexpr int kGroups = Traits::kGroups;

  public:
    HEADRACE_DEVICE ForwardWarp(const Plan& plan, const Tile& tile, const Element* rows) : warp_(plan, tile) {
        for (int half = 0; half < 2; ++half) {
            most_[half] = -INFINITY;
            total_[half] = 0;
        }
        for (int d = 0; d < Traits::kFeatures / 8; ++d) {
            for (int e = 0; e < 4; ++e) sums_[d][e] = 0;
        }
        Product::load(queries_, rows + warp_.first_row() * Traits::kStride);
    }

    // Take in the keys numbered [begin, end), which lie in shared memory.
    HEADRACE_DEVICE void visit(const Plan& plan, const Tile& tile, const Element* keys, const Element* values,
                               int begin, int end) {
        const Groups groups = warp_.groups(begin, end);
        for (int first = 0; first < groups.count(); first += kGroups) {
            const int left = groups.count() - first, here = left < kGroups ? left : kGroups;
            score(plan, tile, keys, groups, begin, first, here);
            rescale(here);
#pragma unroll
            for (int g = 0; g < kGroups; ++g) {
                if (g < here) {
                    Product::accumulate(sums_, scores_[g],
                                        values + groups.at(first + g) * 16 * Traits::kStride);
                }
            }
        }
    }

    // Rows of results into shared memory, in place of the queries; the log of the softmax's denominator of
    // row i by `log_sum(i, value)`.
    template <typename LogSum>
    HEADRACE_DEVICE void finish(Element* rows, const LogSum& log_sum) const {
        float totals[2];
        for (int half = 0; half < 2; ++half) {
            totals[half] = sum_of_row(total_[half]);
            const float value = totals[half] > 0 ? (most_[half] + log_2(totals[half])) / kLog2E : 0;
            if (warp_.lane() % 4 == 0) log_sum(warp_.row(half), value);
        }
        warp_barrier();
        write_sums<Traits::kFeatures>(sums_, rows + warp_.first_row() * Traits::kStride,
                                      [&](int half) { return totals[half] > 0 ? 1 / totals[half] : 0; });
    }

  private:
    HEADRACE_DEVICE void score(const Plan& plan, const Tile& tile, const Element* keys, const Groups& groups,
                               int begin, int first, int here) {
        const float scale = score_scale(plan);
#pragma unroll
        for (int g = 0; g < kGroups; ++g) {
            if (g < here) {
                const int group = groups.at(first + g);
                Product::multiply(queries_, keys + group * 16 * Traits::kStride, scores_[g]);
#pragma unroll
                for (int e = 0; e < 8; ++e) {
                    const int number = begin + group * 16 + column_of_entry(e, warp_.lane());
                    scores_[g][e] = warp_.sees(half_of_entry(e), number) ? scores_[g][e] * scale : -INFINITY;
                }
            }
        }
        if (plan.bias == nullptr) return;
        const QueryWarp::Offsets offsets = warp_.offsets(plan, tile);
#pragma unroll
        for (int g = 0; g < kGroups; ++g) {
            if (g < here) warp_.add_bias(plan, tile, offsets, begin + groups.at(first + g) * 16, scores_[g]);
        }
    }

    // Scores -> weights relative to the largest score so far; sums and totals of before are brought to the
    // same scale.
    HEADRACE_DEVICE void rescale(int here) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            float most = most_[half];
#pragma unroll
            for (int g = 0; g < kGroups; ++g) {
                if (g < here) {
#pragma unroll
                    for (int e = 0; e < 4; ++e) most = fmaxf(most, scores_[g][e / 2 * 4 + half * 2 + e % 2]);
                }
            }
            most = largest_of_row(most);
            const float from = most == -INFINITY ? 0 : most;  // a row that has seen nothing yet
            const float before = power_of_2(most_[half] - from);
            total_[half] *= before;
#pragma unroll
            for (int d = 0; d < Traits::kFeatures / 8; ++d) {
                sums_[d][2 * half] *= before;
                sums_[d][2 * half + 1] *= before;
            }
#pragma unroll
            for (int g = 0; g < kGroups; ++g) {
                if (g < here) {
#pragma unroll
                    for (int e = 0; e < 4; ++e) {
                        float& x = scores_[g][e / 2 * 4 + half * 2 + e % 2];
                        x = power_of_2(x - from);
                        total_[half] += x;
                    }
                }
            }
            most_[half] = most;
        }
    }

    QueryWarp warp_;
    typename Product::Own queries_;
    typename Product::Sums sums_;
    Square scores_[kGroups];
    float most_[2], total_[2];
};

// One thread block of the grid.
template <typename Traits>
HEADRACE_DEVICE void compute_tile(const Planned<Forward>& planned, void* shared) {
    using Element = typename Traits::Element;
    constexpr int kFeatures = Traits::kFeatures;
    const Forward& call = planned.call;
    const Plan& plan = planned.plan;
    const Tile tile(plan, block() / plan.tiles, block() % plan.tiles);
    Element* rows = static_cast<Element*>(shared);
    Element* keys = rows + kTileRows * Traits::kStride;
    Element* values = keys + Traits::kChunk * Traits::kStride;
    const auto source = [&](const View<const void>& view) {
        return Source<const Element>(view, tile.item, tile.head, plan.features);
    };

    const bool any = tile.query(plan, 0).exists;
    if (any) {
        load_queries<kFeatures>(rows, plan, tile, source(call.of.q));
        wait_for_copies();
    }
    barrier();
    ForwardWarp<Traits> warp(plan, tile, rows);
    if (any) {
        pass_keys<Traits>(keys, values, plan, tile, source(call.of.k), source(call.of.v),
                          [&](int begin, int end) { warp.visit(plan, tile, keys, values, begin, end); });
    }

    // Rows of frames that do not exist saw nothing: their sums are zero.
    float* log_sums = static_cast<float*>(call.log_sums);
    warp.finish(rows, [&](int i, float log_sum) {
        if (i < tile.rows) log_sums[tile.flat_row(plan, i)] = log_sum;
    });
    warp_barrier();
    store_queries<kFeatures>(rows, plan, tile, Source<Element>(call.y, tile.item, tile.head, plan.features));
}

}  // namespace headrace::cuda

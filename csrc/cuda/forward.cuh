// SPDX-License-Identifier: Apache-2.0
// SA and LLSA forward for bf16 and fp16.
//
// Tile         64 rows of one head and the keys that they see; a thread block of 4 warps, 16 rows a warp
// Loads        all threads bring the rows, then the tile's keys and values, kChunk at a time (one chunk at
// the window sizes
//              of speech), by 16-byte asynchronous copies; rows that do not exist are zeros
// Shared       (64 + 2 kChunk) rows of kFeatures + 8 numbers: 64.5 KB for 64 features, 87 KB for 128
// Registers    a warp touches only the groups of 16 keys that its rows see; scores of up to 10 groups (160
// keys; 8 for D over 96) are held at
//              once and their softmax is done in one go; what is beyond is added by the running softmax
// Accumulates  in fp32: scores, softmax, sums. Weights are rounded to the tensors' type before they meet the
// values
#pragma once

#include "rows.cuh"

namespace headrace::cuda {

template <typename Element_, int kFeatures_>
struct ForwardTraits {
    using Element = Element_;
    static constexpr int kFeatures = kFeatures_;
    static constexpr int kWarps = kTileRows / 16;
    static constexpr int kThreads = kWarps * kWarp;
    static constexpr int kChunk = kFeatures <= 64 ? 192 : 128;
    static constexpr int kGroups = kFeatures <= 96 ? 10 : 8;  // of 16 keys, held in registers at once
    static constexpr int kStride = RowsOf<kFeatures>::kStride;
    static constexpr int kSharedBytes = (kTileRows + 2 * kChunk) * kStride * 2;
    static_assert(kChunk % 16 == 0, "keys come in groups of 16");
};

// The rows of one warp: what they see, and their running softmax. A lane holds two rows, lane / 4 and lane /
// 4 + 8.
template <typename Traits>
class ForwardWarp {
    using Element = typename Traits::Element;
    static constexpr int kSteps = Traits::kFeatures / 16;
    static constexpr int kGroups = Traits::kGroups;

  public:
    HEADRACE_DEVICE ForwardWarp(const Attention& of, const Tile& tile, const Element* rows)
        : first_row_(thread() / kWarp * 16), lane_(thread() % kWarp) {
        constexpr int far = 1 << 30;
        finals_ = owns_ = Interval{far, -far};
        if (lane_ < 16 && tile.exists(of, first_row_ + lane_)) {
            finals_ = tile.finals_of(of, first_row_ + lane_);
            owns_ = tile.owns_of(of, first_row_ + lane_);
            if (finals_.begin >= finals_.end) finals_ = Interval{far, -far};
            if (owns_.begin >= owns_.end) owns_ = Interval{far, -far};
        }
        finals_ = Interval{smallest_of_warp(finals_.begin), largest_of_warp(finals_.end)};
        owns_ = Interval{smallest_of_warp(owns_.begin), largest_of_warp(owns_.end)};
        for (int half = 0; half < 2; ++half) {
            const int row = row_of(half);
            const bool exists = tile.exists(of, row);
            seen_finals_[half] = exists ? tile.finals_of(of, row) : Interval{0, 0};
            seen_owns_[half] = exists ? tile.owns_of(of, row) : Interval{0, 0};
            most_[half] = -INFINITY;
            total_[half] = 0;
        }
        for (int d = 0; d < 2 * kSteps; ++d) {
            for (int e = 0; e < 4; ++e) sums_[d][e] = 0;
        }
        const Element* mine = rows + (first_row_ + lane_ % 16) * Traits::kStride + lane_ / 16 * 8;
#pragma unroll
        for (int step = 0; step < kSteps; ++step) load_matrices(queries_[step], mine + step * 16);
    }

    HEADRACE_DEVICE int row_of(int half) const { return first_row_ + lane_ / 4 + 8 * half; }

    // Take in the keys numbered [begin, end), which lie in shared memory.
    HEADRACE_DEVICE void visit(const Attention& of, const Tile& tile, const Element* keys,
                               const Element* values, int begin, int end) {
        const Interval finals = groups_in(finals_, begin, end), owns = groups_in(owns_, begin, end);
        const int count = finals.end - finals.begin + owns.end - owns.begin;
        for (int first = 0; first < count; first += kGroups) {
            const int here = count - first < kGroups ? count - first : kGroups;
            score(of, tile, keys, finals, owns, begin, first, here);
            rescale(here);
            add_values(values, finals, owns, first, here);
        }
    }

    // Rows of results into shared memory, in place of the queries; the log of the softmax's denominator to
    // `log_sums`.
    template <typename LogSums>
    HEADRACE_DEVICE void finish(Element* rows, const LogSums& log_sums) const {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const float total = sum_of_row(total_[half]);
            const float inverse = total > 0 ? 1 / total : 0;
            uint32_t* to = reinterpret_cast<uint32_t*>(rows + row_of(half) * Traits::kStride);
#pragma unroll
            for (int d = 0; d < 2 * kSteps; ++d) {
                to[d * 4 + lane_ % 4] =
                    pack(sums_[d][2 * half] * inverse, sums_[d][2 * half + 1] * inverse, Element{});
            }
            if (lane_ % 4 == 0) log_sums(row_of(half), total > 0 ? (most_[half] + log_2(total)) / kLog2E : 0);
        }
    }

  private:
    static constexpr float kLog2E = 1.44269504f;

    // Groups of 16 keys of a chunk that hold some of an interval.
    HEADRACE_DEVICE static Interval groups_in(Interval seen, int begin, int end) {
        const int from = seen.begin > begin ? seen.begin : begin, to = seen.end < end ? seen.end : end;
        return from < to ? Interval{(from - begin) / 16, (to - begin + 15) / 16} : Interval{0, 0};
    }

    // The n-th group that is visited.
    HEADRACE_DEVICE static int group_at(Interval finals, Interval owns, int n) {
        const int count = finals.end - finals.begin;
        return n < count ? finals.begin + n : owns.begin + n - count;
    }

    HEADRACE_DEVICE bool sees(int half, int number) const {
        return (number >= seen_finals_[half].begin && number < seen_finals_[half].end) ||
               (number >= seen_owns_[half].begin && number < seen_owns_[half].end);
    }

    HEADRACE_DEVICE void score(const Attention& of, const Tile& tile, const Element* keys, Interval finals,
                               Interval owns, int begin, int first, int here) {
        const float scale = kLog2E * rsqrtf(static_cast<float>(of.features));
#pragma unroll
        for (int g = 0; g < kGroups; ++g) {
            if (g < here) {
                const int group = group_at(finals, owns, first + g);
                const Element* row =
                    keys + (group * 16 + lane_ / 16 * 8 + lane_ % 8) * Traits::kStride + lane_ / 8 % 2 * 8;
                float both[2][4] = {};
#pragma unroll
                for (int step = 0; step < kSteps; ++step) {
                    uint32_t b[4];
                    load_matrices(b, row + step * 16);
                    multiply_add(both[0], queries_[step], b[0], b[1], Element{});
                    multiply_add(both[1], queries_[step], b[2], b[3], Element{});
                }
#pragma unroll
                for (int e = 0; e < 8; ++e) {
                    const int number = begin + group * 16 + e / 4 * 8 + lane_ % 4 * 2 + e % 2,
                              half = e / 2 % 2;
                    const float bias =
                        of.bias == nullptr ? 0 : bias_of(of, tile, row_of(half), number, sees(half, number));
                    scores_[g][e] =
                        sees(half, number) ? both[e / 4][e % 4] * scale + bias * kLog2E : -INFINITY;
                }
            }
        }
    }

    HEADRACE_DEVICE static float bias_of(const Attention& of, const Tile& tile, int row, int number,
                                         bool seen) {
        if (!seen) return 0;
        int64_t block, key_row;
        tile.locate(of, number, &block, &key_row);
        const int64_t offset = of.reach.frame(block, key_row) -
                               of.reach.frame(tile.block_of(of, row), tile.row_of(of, row)) -
                               of.reach.lowest_offset();
        return static_cast<const float*>(of.bias)[tile.head * of.reach.num_offsets() + offset];
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
            for (int d = 0; d < 2 * kSteps; ++d) {
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

    HEADRACE_DEVICE void add_values(const Element* values, Interval finals, Interval owns, int first,
                                    int here) {
#pragma unroll
        for (int g = 0; g < kGroups; ++g) {
            if (g < here) {
                const int group = group_at(finals, owns, first + g);
                const uint32_t weights[4] = {pack(scores_[g][0], scores_[g][1], Element{}),
                                             pack(scores_[g][2], scores_[g][3], Element{}),
                                             pack(scores_[g][4], scores_[g][5], Element{}),
                                             pack(scores_[g][6], scores_[g][7], Element{})};
                const Element* row =
                    values + (group * 16 + lane_ / 8 % 2 * 8 + lane_ % 8) * Traits::kStride + lane_ / 16 * 8;
#pragma unroll
                for (int step = 0; step < kSteps; ++step) {
                    uint32_t b[4];
                    load_matrices_transposed(b, row + step * 16);
                    multiply_add(sums_[2 * step], weights, b[0], b[1], Element{});
                    multiply_add(sums_[2 * step + 1], weights, b[2], b[3], Element{});
                }
            }
        }
    }

    int first_row_, lane_;
    Interval finals_, owns_;                  // numbers that any row of the warp sees
    Interval seen_finals_[2], seen_owns_[2];  // that each of the lane's rows sees
    uint32_t queries_[kSteps][4];
    float scores_[kGroups][8];   // [group][key / 8, row / 8, key % 2]
    float sums_[2 * kSteps][4];  // [features / 8][row / 8, feature % 2]
    float most_[2], total_[2];
};

// One thread block of the grid.
template <typename Traits>
HEADRACE_DEVICE void forward_tile(const Forward& call, void* shared) {
    using Element = typename Traits::Element;
    const Attention& of = call.of;
    const Tile tile(of, block());
    Element* rows = static_cast<Element*>(shared);
    Element* keys = rows + kTileRows * Traits::kStride;
    Element* values = keys + Traits::kChunk * Traits::kStride;
    const Element *q = static_cast<const Element*>(of.q.data), *k = static_cast<const Element*>(of.k.data),
                  *v = static_cast<const Element*>(of.v.data);
    const auto at = [&](const Strides& s, int64_t block, int64_t row) {
        return tile.item * s.item + tile.head * s.head + block * s.block + row * s.row;
    };

    const bool any = tile.exists(of, 0);
    if (any) {
        load_rows<Traits::kFeatures, Traits::kThreads>(
            rows, kTileRows, of.features, is_aligned(q, of.q.strides, of.features), [&](int i) {
                return tile.exists(of, i) ? q + at(of.q.strides, tile.block_of(of, i), tile.row_of(of, i))
                                          : nullptr;
            });
        wait_for_copies();
    }
    barrier();
    ForwardWarp<Traits> warp(of, tile, rows);
    for (int begin = 0; any && begin < tile.keys; begin += Traits::kChunk) {
        const int end = tile.keys - begin < Traits::kChunk ? tile.keys : begin + Traits::kChunk;
        const int count = (end - begin + 15) / 16 * 16;
        const auto source = [&](const Element* data, const Strides& strides) {
            return [&tile, &of, &at, data, &strides, begin](int i) {
                int64_t block, row;
                return tile.locate(of, begin + i, &block, &row) ? data + at(strides, block, row) : nullptr;
            };
        };
        load_rows<Traits::kFeatures, Traits::kThreads>(
            keys, count, of.features, is_aligned(k, of.k.strides, of.features), source(k, of.k.strides));
        load_rows<Traits::kFeatures, Traits::kThreads>(
            values, count, of.features, is_aligned(v, of.v.strides, of.features), source(v, of.v.strides));
        wait_for_copies();
        barrier();
        warp.visit(of, tile, keys, values, begin, end);
        barrier();
    }

    // Rows of frames that do not exist saw nothing: their sums are zero.
    Element* y = static_cast<Element*>(call.y.data);
    float* log_sums = static_cast<float*>(call.log_sums);
    warp.finish(rows, [&](int i, float log_sum) {
        if (i >= tile.rows) return;
        const int64_t head = tile.item * of.heads + tile.head;
        log_sums[(head * of.blocks + tile.block_of(of, i)) * of.query_rows + tile.row_of(of, i)] = log_sum;
    });
    barrier();
    const int first = thread() / kWarp * 16;
    store_rows_of_warp<Traits::kFeatures>(rows + first * Traits::kStride, of.features,
                                          is_aligned(y, call.y.strides, of.features), [&](int i) -> Element* {
                                              if (first + i >= tile.rows) return nullptr;
                                              return y + at(call.y.strides, tile.block_of(of, first + i),
                                                            tile.row_of(of, first + i));
                                          });
}

}  // namespace headrace::cuda

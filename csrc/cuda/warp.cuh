// SPDX-License-Identifier: Apache-2.0
// The 16 query rows of one warp: which of a tile's keys they see.
#pragma once

#include "products.cuh"

namespace headrace::cuda {

constexpr int kWarps = kTileRows / 16;
constexpr int kThreads = kWarps * kWarp;

// Groups of 16 keys of a chunk that some row of a warp sees.
struct Groups {
    Interval finals, owns;

    HEADRACE_DEVICE int count() const { return finals.end - finals.begin + owns.end - owns.begin; }
    HEADRACE_DEVICE int at(int n) const {
        const int of_finals = finals.end - finals.begin;
        return n < of_finals ? finals.begin + n : owns.begin + n - of_finals;
    }
};

// A lane holds two rows, lane / 4 and lane / 4 + 8 of the warp's.
class QueryWarp {
  public:
    HEADRACE_DEVICE QueryWarp(const Plan& plan, const Tile& tile) {
        constexpr int far = 1 << 30;
        const auto clear_if_empty = [](Interval& seen) {
            if (seen.begin >= seen.end) seen = Interval{far, -far};
        };
        const Place mine = tile.query(plan, first_row() + lane() % 16);
        finals_ = mine.exists ? tile.finals_of(plan, mine) : Interval{0, 0};
        owns_ = mine.exists ? tile.owns_of(plan, mine) : Interval{0, 0};
        clear_if_empty(finals_);
        clear_if_empty(owns_);
        finals_ = Interval{smallest_of_warp(finals_.begin), largest_of_warp(finals_.end)};
        owns_ = Interval{smallest_of_warp(owns_.begin), largest_of_warp(owns_.end)};
        for (int half = 0; half < 2; ++half) {
            const Place place = tile.query(plan, row(half));
            seen_finals_[half] = place.exists ? tile.finals_of(plan, place) : Interval{0, 0};
            seen_owns_[half] = place.exists ? tile.owns_of(plan, place) : Interval{0, 0};
        }
    }

    HEADRACE_DEVICE static int first_row() { return thread() / kWarp * 16; }
    HEADRACE_DEVICE static int lane() { return thread() % kWarp; }
    HEADRACE_DEVICE static int row(int half) { return first_row() + lane() / 4 + 8 * half; }

    // Of the chunk of keys numbered [begin, end).
    HEADRACE_DEVICE Groups groups(int begin, int end) const {
        return Groups{groups_in(finals_, begin, end), groups_in(owns_, begin, end)};
    }

    HEADRACE_DEVICE bool sees(int half, int number) const {
        return (number >= seen_finals_[half].begin && number < seen_finals_[half].end) ||
               (number >= seen_owns_[half].begin && number < seen_owns_[half].end);
    }

    // What is added to the number of a key that a row sees for its place in the head's relative bias: a row
    // sees own keys of its own block alone, so that either sort of key is numbered by its frame.
    struct Offsets {
        int finals[2], owns[2], own_begin;

        HEADRACE_DEVICE int place(int half, int number) const {
            return number + (number < own_begin ? finals[half] : owns[half]);
        }
    };
    HEADRACE_DEVICE static Offsets offsets(const Plan& plan, const Tile& tile) {
        Offsets offsets;
        offsets.own_begin = tile.own_begin;
        for (int half = 0; half < 2; ++half) {
            const Place query = tile.query(plan, row(half));
            const int base = -plan.reach.frame(query.block, query.row) - plan.lowest_offset;
            offsets.finals[half] = tile.window + base;
            offsets.owns[half] = plan.reach.frame(query.block, 0) - tile.own_number(plan, query.block) + base;
        }
        return offsets;
    }

    // Add the relative bias, in powers of 2, to the scores of the keys numbered from `first` on.
    HEADRACE_DEVICE void add_bias(const Plan& plan, const Tile& tile, const Offsets& offsets, int first,
                                  Square& scores) const {
        const float* bias = plan.bias + tile.head * plan.num_offsets;
#pragma unroll
        for (int e = 0; e < 8; ++e) {
            const int half = half_of_entry(e), number = first + column_of_entry(e, lane());
            if (sees(half, number)) scores[e] += bias[offsets.place(half, number)] * kLog2E;
        }
    }

  private:
    HEADRACE_DEVICE static Interval groups_in(Interval seen, int begin, int end) {
        const int from = seen.begin > begin ? seen.begin : begin, to = seen.end < end ? seen.end : end;
        return from < to ? Interval{(from - begin) / 16, (to - begin + 15) / 16} : Interval{0, 0};
    }

    Interval finals_, owns_;                  // numbers that any row of the warp sees
    Interval seen_finals_[2], seen_owns_[2];  // that each of the lane's rows sees
};

// Scores in powers of 2 are this times the product.
HEADRACE_DEVICE float score_scale(const Plan& plan) {
    return kLog2E * rsqrtf(static_cast<float>(plan.features));
}

// The tile's keys numbered [begin, end), up to a multiple of 16, by all threads.
template <int kFeatures, typename Element>
HEADRACE_DEVICE void load_keys(Element* to, const Plan& plan, const Tile& tile,
                               const Source<const Element>& from, int begin, int end) {
    load_rows<kFeatures, kThreads>(to, (end - begin + 15) / 16 * 16, plan.features, from.aligned,
                                   [&](int i) { return from.at_if_exists(tile.key(plan, begin + i)); });
}

// All of the tile's keys and values, Traits::kChunk at a time: `visit(begin, end)` when those numbered
// [begin, end) lie in shared memory.
template <typename Traits, typename Element, typename Visit>
HEADRACE_DEVICE void pass_keys(Element* keys, Element* values, const Plan& plan, const Tile& tile,
                               const Source<const Element>& k, const Source<const Element>& v,
                               const Visit& visit) {
    for (int begin = 0; begin < tile.keys; begin += Traits::kChunk) {
        const int end = tile.keys - begin < Traits::kChunk ? tile.keys : begin + Traits::kChunk;
        load_keys<Traits::kFeatures>(keys, plan, tile, k, begin, end);
        load_keys<Traits::kFeatures>(values, plan, tile, v, begin, end);
        wait_for_copies();
        barrier();
        visit(begin, end);
        barrier();
    }
}

// The tile's query rows of a tensor, by all threads; zeros for rows that do not exist.
template <int kFeatures, typename Element>
HEADRACE_DEVICE void load_queries(Element* to, const Plan& plan, const Tile& tile,
                                  const Source<const Element>& from) {
    load_rows<kFeatures, kThreads>(to, kTileRows, plan.features, from.aligned,
                                   [&](int i) { return from.at_if_exists(tile.query(plan, i)); });
}

// The warp's 16 rows, from shared memory to where the tile's query rows lie.
template <int kFeatures, typename Element>
HEADRACE_DEVICE void store_queries(const Element* rows, const Plan& plan, const Tile& tile,
                                   const Source<Element>& to) {
    const int first = thread() / kWarp * 16;
    store_rows_of_warp<kFeatures>(
        rows + first * RowsOf<Element, kFeatures>::kStride, plan.features, to.aligned,
        [&](int i) { return first + i < tile.rows ? to.at(tile.query(plan, first + i)) : nullptr; });
}

}  // namespace headrace::cuda

// SPDX-License-Identifier: Apache-2.0
// Backward, the side of the keys: dK and dV. See backward.cuh.
#pragma once

#include "backward_memory.cuh"
#include "key_tile.cuh"

namespace headrace::cuda {

// What a chunk of passing query rows is known by.
struct Columns {
    int *first_seen, *block, *frame;  // first frame that the row sees; its own block, or -1, and frame
    float *log_sum, *delta;

    HEADRACE_DEVICE Columns(void* memory, int count) {
        first_seen = static_cast<int*>(memory);
        block = first_seen + count;
        frame = block + count;
        log_sum = reinterpret_cast<float*>(frame + count);
        delta = log_sum + count;
    }
};

// The gradients of the 16 keys of a warp, of their values, or of both.
template <typename Traits, bool kOfKeys, bool kOfValues>
class KeyGradient {
    using Element = typename Traits::Element;
    using Product = Products<Element, Traits::kFeatures>;

  public:
    HEADRACE_DEVICE KeyGradient(const Plan& plan, const KeyTile& tile, const Element* keys,
                                const Element* values)
        : plan_(plan), tile_(tile) {
        const Interval seen_by = tile.queries_of(plan, first_row(), first_row() + 16);
        queries_ = Interval{seen_by.begin - tile.first_query, seen_by.end - tile.first_query};
        for (int half = 0; half < 2; ++half) {
            const Place key = tile.key(plan, first_row() + lane() / 4 + 8 * half);
            frames_[half] = plan.reach.frame(key.block, key.row);
            seers_[half] = Interval{0, 0};
            if (!key.exists) continue;
            seers_[half] = Interval{plan.reach.first_seer(key.block, key.row),
                                    plan.reach.end_seer(key.block, key.row, tile.length)};
        }
        for (int d = 0; d < Traits::kFeatures / 8; ++d) {
            for (int e = 0; e < 4; ++e) key_sums_[d][e] = value_sums_[d][e] = 0;
        }
        Product::load(keys_, keys + first_row() * Traits::kStride);
        Product::load(values_, values + first_row() * Traits::kStride);
    }

    // Take in the query rows numbered [begin, end), which lie in shared memory.
    HEADRACE_DEVICE void visit(const Element* queries, const Element* grads, const Columns& columns,
                               int begin, int end) {
        const int from = queries_.begin > begin ? queries_.begin : begin;
        const int to = queries_.end < end ? queries_.end : end;
        for (int first = from > to ? to : (from - begin) / 16 * 16; begin + first < to; first += 16) {
            const Element* group_queries = queries + first * Traits::kStride;
            const Element* group_grads = grads + first * Traits::kStride;
            Square weights, products;
            Product::multiply(keys_, group_queries, weights);
            if (kOfKeys) Product::multiply(values_, group_grads, products);
            grad_of_scores(columns, first, weights, products);
            if (kOfValues) Product::accumulate(value_sums_, weights, group_grads);
            if (kOfKeys) Product::accumulate(key_sums_, products, group_queries);
        }
    }

    // dK or dV into shared memory, in place of the warp's keys or values.
    HEADRACE_DEVICE void write_keys(Element* keys) const {
        const float scale = rsqrtf(static_cast<float>(plan_.features));
        write_sums<Traits::kFeatures>(key_sums_, keys + first_row() * Traits::kStride,
                                      [&](int) { return scale; });
    }
    HEADRACE_DEVICE void write_values(Element* values) const {
        write_sums<Traits::kFeatures>(value_sums_, values + first_row() * Traits::kStride,
                                      [](int) { return 1.0f; });
    }

  private:
    HEADRACE_DEVICE static int first_row() { return thread() / kWarp * 16; }
    HEADRACE_DEVICE static int lane() { return thread() % kWarp; }

    // k . q and v . dO -> P and, where dK is wanted, dS: in place.
    HEADRACE_DEVICE void grad_of_scores(const Columns& columns, int first, Square& weights,
                                        Square& products) const {
        const float scale = score_scale(plan_);
#pragma unroll
        for (int e = 0; e < 8; ++e) {
            const int half = half_of_entry(e), column = first + column_of_entry(e, lane());
            const int block = columns.block[column];
            const bool seen = block >= seers_[half].begin && block < seers_[half].end &&
                              frames_[half] >= columns.first_seen[column];
            const float score = weights[e] * scale + (seen ? bias(half, columns.frame[column]) : 0);
            weights[e] = seen ? power_of_2(score - columns.log_sum[column]) : 0;
            if (kOfKeys) products[e] = seen ? weights[e] * (products[e] - columns.delta[column]) : 0;
        }
    }

    HEADRACE_DEVICE float bias(int half, int query_frame) const {
        if (plan_.bias == nullptr) return 0;
        const int offset = frames_[half] - query_frame - plan_.lowest_offset;
        return plan_.bias[tile_.head * plan_.num_offsets + offset] * kLog2E;
    }

    const Plan& plan_;
    const KeyTile& tile_;
    Interval queries_;   // numbers of the query rows that see one of the warp's keys
    Interval seers_[2];  // blocks that see each of the lane's keys
    int frames_[2];      // of the lane's keys
    typename Product::Own keys_, values_;
    typename Product::Sums key_sums_, value_sums_;
};

// Query row `number` of those that see the tile's keys.
HEADRACE_DEVICE Place passing_query(const Plan& plan, const KeyTile& tile, int number) {
    const int block = plan.block_of_query(tile.first_query + number);
    const int row = tile.first_query + number - block * plan.query_rows;
    return Place{block, row, number < tile.queries && plan.reach.frame(block, row) < tile.length};
}

// Everything of the query rows from number `begin` on but the product with y, by all threads.
template <typename Traits>
HEADRACE_DEVICE void describe_queries(const Plan& plan, const KeyTile& tile, const float* log_sums,
                                      const Columns& columns, int begin) {
    const int64_t rows_before =
        (static_cast<int64_t>(tile.item) * plan.heads + tile.head) * plan.blocks * plan.query_rows;
    for (int i = thread(); i < Traits::kChunk; i += kThreads) {
        const Place query = passing_query(plan, tile, begin + i);
        columns.block[i] = query.exists ? query.block : -1;
        columns.frame[i] = plan.reach.frame(query.block, query.row);
        columns.first_seen[i] = plan.reach.first(query.block, query.row);
        columns.log_sum[i] = query.exists ? log_sums[rows_before + tile.first_query + begin + i] * kLog2E : 0;
    }
}

template <typename Traits, bool kOfKeys, bool kOfValues>
HEADRACE_DEVICE void pass_queries(const Planned<Backward>& planned, const KeyTile& tile, void* shared) {
    using Element = typename Traits::Element;
    constexpr int kFeatures = Traits::kFeatures, kStride = Traits::kStride;
    const Backward& call = planned.call;
    const Plan& plan = planned.plan;
    const BackwardMemory<Traits> memory(shared);
    const Columns columns(memory.columns, Traits::kChunk);
    const auto source = [&](const View<const void>& view) {
        return Source<const Element>(view, tile.item, tile.head, plan.features);
    };
    const auto load_own = [&](Element* to, const Source<const Element>& from) {
        load_rows<kFeatures, kThreads>(to, kTileRows, plan.features, from.aligned,
                                       [&](int i) { return from.at_if_exists(tile.key(plan, i)); });
    };
    load_own(memory.first_own, source(call.of.k));
    load_own(memory.second_own, source(call.of.v));
    wait_for_copies();
    barrier();
    KeyGradient<Traits, kOfKeys, kOfValues> gradient(plan, tile, memory.first_own, memory.second_own);

    const Source<const Element> q = source(call.of.q), y = source(call.y), grad_y = source(call.grad_y);
    for (int begin = 0; begin < tile.queries; begin += Traits::kChunk) {
        const int left = tile.queries - begin, count = left < Traits::kChunk ? left : Traits::kChunk;
        const auto load_other = [&](Element* to, const Source<const Element>& from) {
            load_rows<kFeatures, kThreads>(
                to, (count + 15) / 16 * 16, plan.features, from.aligned,
                [&](int i) { return from.at_if_exists(passing_query(plan, tile, begin + i)); });
        };
        load_other(memory.first_other, q);
        load_other(memory.second_other, grad_y);
        describe_queries<Traits>(plan, tile, call.log_sums, columns, begin);
        wait_for_copies();
        barrier();
        for (int i = thread() / 4; i < Traits::kChunk; i += kThreads / 4) {
            const Element* result = y.at_if_exists(passing_query(plan, tile, begin + i));
            const float delta =
                dot_of_row<kFeatures>(memory.second_other + i * kStride, result, plan.features, y.aligned);
            if (thread() % 4 == 0) columns.delta[i] = delta;
        }
        barrier();
        gradient.visit(memory.first_other, memory.second_other, columns, begin, begin + count);
        barrier();
    }

    const int first = thread() / kWarp * 16;
    const auto store = [&](const Element* rows, const View<void>& view) {
        const Source<Element> to(view, tile.item, tile.head, plan.features);
        store_rows_of_warp<kFeatures>(rows + first * kStride, plan.features, to.aligned, [&](int i) {
            return tile.stands(first + i) ? to.at(tile.key(plan, first + i)) : nullptr;
        });
    };
    if (kOfKeys) gradient.write_keys(memory.first_own);
    if (kOfValues) gradient.write_values(memory.second_own);
    warp_barrier();
    if (kOfKeys) store(memory.first_own, call.grad_k);
    if (kOfValues) store(memory.second_own, call.grad_v);
}

template <typename Traits>
HEADRACE_DEVICE void backward_keys(const Planned<Backward>& planned, void* shared) {
    const Plan& plan = planned.plan;
    const KeyTile tile(plan, row_of_heads(plan), tile_of_head(plan) - plan.tiles);
    if constexpr (Traits::kBothAtOnce) {
        pass_queries<Traits, true, true>(planned, tile, shared);
    } else {
        pass_queries<Traits, false, true>(planned, tile, shared);
        barrier();
        pass_queries<Traits, true, false>(planned, tile, shared);
    }
}

}  // namespace headrace::cuda

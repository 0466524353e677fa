// SPDX-License-Identifier: Apache-2.0
// Backward, the side of the queries: dQ, and parts of the gradient of the relative bias. See backward.cuh.
#pragma once

#include "backward_memory.cuh"

namespace headrace::cuda {

template <typename Traits>
class QueryGradient {
    using Element = typename Traits::Element;
    using Product = Products<Element, Traits::kFeatures>;

  public:
    HEADRACE_DEVICE QueryGradient(const Planned<Backward>& planned, const Tile& tile, const Element* queries,
                                  const Element* grads, const Source<const Element>& y)
        : plan_(planned.plan), tile_(tile), warp_(planned.plan, tile) {
        const Backward& call = planned.call;
        for (int half = 0; half < 2; ++half) {
            const int row = warp_.row(half);
            const Place place = tile.query(plan_, row);
            log_sums_[half] = place.exists ? call.log_sums[tile.flat_row(plan_, row)] * kLog2E : 0;
            deltas_[half] = dot_of_row<Traits::kFeatures>(grads + row * Traits::kStride,
                                                          y.at_if_exists(place), plan_.features, y.aligned);
        }
        for (int d = 0; d < Traits::kFeatures / 8; ++d) {
            for (int e = 0; e < 4; ++e) sums_[d][e] = 0;
        }
        Product::load(queries_, queries + warp_.first_row() * Traits::kStride);
        Product::load(grads_, grads + warp_.first_row() * Traits::kStride);
        if (call.grad_bias_parts != nullptr) {
            const int64_t parts_before =
                (static_cast<int64_t>(tile.item) * plan_.heads + tile.head) * plan_.tiles;
            grad_bias_ =
                call.grad_bias_parts +
                ((parts_before + tile_of_head(plan_)) * kWarps + thread() / kWarp) * plan_.num_offsets;
        }
    }

    // Take in the keys numbered [begin, end), which lie in shared memory.
    HEADRACE_DEVICE void visit(const Element* keys, const Element* values, int begin, int end) {
        const Groups groups = warp_.groups(begin, end);
        for (int n = 0; n < groups.count(); ++n) {
            const int group = groups.at(n);
            const Element* group_keys = keys + group * 16 * Traits::kStride;
            Square scores, grads;
            Product::multiply(queries_, group_keys, scores);
            Product::multiply(grads_, values + group * 16 * Traits::kStride, grads);
            grad_of_scores(scores, grads, begin + group * 16);
            if (grad_bias_ != nullptr) add_to_bias(grads, begin + group * 16);
            Product::accumulate(sums_, grads, group_keys);
        }
    }

    // dQ into shared memory, in place of the warp's queries.
    HEADRACE_DEVICE void finish(Element* queries) const {
        warp_barrier();
        const float scale = rsqrtf(static_cast<float>(plan_.features));
        write_sums<Traits::kFeatures>(sums_, queries + warp_.first_row() * Traits::kStride,
                                      [&](int) { return scale; });
        warp_barrier();
    }

  private:
    // q . k and dO . v -> dS, in place of the latter.
    HEADRACE_DEVICE void grad_of_scores(Square& scores, Square& grads, int first_number) const {
        const float scale = score_scale(plan_);
#pragma unroll
        for (int e = 0; e < 8; ++e) scores[e] *= scale;
        if (plan_.bias != nullptr) {
            warp_.add_bias(plan_, tile_, warp_.offsets(plan_, tile_), first_number, scores);
        }
#pragma unroll
        for (int e = 0; e < 8; ++e) {
            const int half = half_of_entry(e), number = first_number + column_of_entry(e, warp_.lane());
            grads[e] = warp_.sees(half, number)
                           ? power_of_2(scores[e] - log_sums_[half]) * (grads[e] - deltas_[half])
                           : 0;
        }
    }

    // Row by row: the keys of one row have different offsets, so that no two lanes add to one place.
    HEADRACE_DEVICE void add_to_bias(const Square& grads, int first_number) {
        const QueryWarp::Offsets offsets = warp_.offsets(plan_, tile_);
#pragma unroll
        for (int row = 0; row < 16; ++row) {
            if (warp_.lane() / 4 == row % 8) {
#pragma unroll
                for (int c = 0; c < 4; ++c) {
                    const int e = c / 2 * 4 + row / 8 * 2 + c % 2;
                    const int number = first_number + column_of_entry(e, warp_.lane());
                    if (warp_.sees(row / 8, number)) {
                        grad_bias_[offsets.place(row / 8, number)] += grads[e];
                    }
                }
            }
            warp_barrier();
        }
    }

    const Plan& plan_;
    const Tile& tile_;
    QueryWarp warp_;
    typename Product::Own queries_, grads_;
    typename Product::Sums sums_;
    float log_sums_[2], deltas_[2];
    float* grad_bias_ = nullptr;
};

template <typename Traits>
HEADRACE_DEVICE void backward_queries(const Planned<Backward>& planned, void* shared) {
    using Element = typename Traits::Element;
    constexpr int kFeatures = Traits::kFeatures;
    const Backward& call = planned.call;
    const Plan& plan = planned.plan;
    const Tile tile(plan, row_of_heads(plan), tile_of_head(plan));
    const BackwardMemory<Traits> memory(shared);
    const auto source = [&](const View<const void>& view) {
        return Source<const Element>(view, tile.item, tile.head, plan.features);
    };

    const bool any = tile.query(plan, 0).exists;
    if (any) {
        load_queries<kFeatures>(memory.first_own, plan, tile, source(call.of.q));
        load_queries<kFeatures>(memory.second_own, plan, tile, source(call.grad_y));
        wait_for_copies();
    }
    barrier();
    QueryGradient<Traits> gradient(planned, tile, memory.first_own, memory.second_own, source(call.y));
    if (any) {
        pass_keys<Traits>(
            memory.first_other, memory.second_other, plan, tile, source(call.of.k), source(call.of.v),
            [&](int begin, int end) { gradient.visit(memory.first_other, memory.second_other, begin, end); });
    }
    gradient.finish(memory.first_own);
    store_queries<kFeatures>(memory.first_own, plan, tile,
                             Source<Element>(call.grad_q, tile.item, tile.head, plan.features));
}

}  // namespace headrace::cuda

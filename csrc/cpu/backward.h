// SPDX-License-Identifier: Apache-2.0
// Backward of one segment: a walk along its blocks, with the sums of the keys in sight in a window that moves
// along.
#pragma once

#include "channel_rows.h"

namespace headrace::HEADRACE_ISA {
namespace {  // one copy for each instruction set: see vector.h

template <typename Real>
struct BackwardScratch {
    Packed<Real> keys, values;
    Real *key_sums, *value_sums;  // [window, padded]: dK and dV of the rows in sight
    Real *queries, *grads, *weights, *products, *query_sums;
    Real *ahead, *channel_row, *channel_means;  // of channel_rows.h: [kBackwardUnit, rows], [padded], [rows]
    int64_t stride;
    size_t bytes;

    BackwardScratch(const Attention& of, void* memory) {
        Arena arena(memory);
        const int64_t padded = round_up(of.features, kLanes<Real>);
        const int64_t window = largest_window(of.reach, of.blocks, of.frames());
        keys = Packed<Real>::take(arena, window, padded);
        values = Packed<Real>::take(arena, window, padded);
        key_sums = arena.take<Real>(window * padded);
        value_sums = arena.take<Real>(window * padded);
        stride = round_up(window, kLanes<Real>) + 2 * kLanes<Real>;
        queries = arena.take<Real>(kBackwardUnit * padded);
        grads = arena.take<Real>(kBackwardUnit * padded);
        weights = arena.take<Real>(kBackwardUnit * stride);
        products = arena.take<Real>(kBackwardUnit * stride);
        query_sums = arena.take<Real>(kBackwardUnit * padded);
        ahead = arena.take<Real>(kBackwardUnit * of.channels.rows);
        channel_row = arena.take<Real>(padded);
        channel_means = arena.take<Real>(of.channels.rows);
        bytes = arena.used();
    }
};

// Sums of dK (0) and dV (1) -> gradients: those of dK were made with queries times log2(e), see
// Head::score_scale.
template <typename Real>
Real factor_of(int64_t which) {
    return which == 0 ? static_cast<Real>(kLn2) : Real(1);
}

// One task of backward: the blocks of one segment of one head.
template <typename Element>
class Walk {
  public:
    using Real = typename ComputeType<Element>::Type;

    Walk(const Backward& call, int64_t item, int64_t head, int64_t segment, BackwardScratch<Real>& scratch)
        : call_(call),
          of_(call.of),
          reach_(call.of.reach),
          item_(item),
          head_number_(head),
          segment_(segment),
          head_(call.of, item, head),
          scratch_(scratch) {}

    void run() {
        const int64_t tile = blocks_of_tile(reach_);
        const int64_t first = segment_ * call_.segments.blocks_each;
        const int64_t end = minimum(first + call_.segments.blocks_each, of_.blocks);
        clear_padding<Element>(of_, call_.grad_q, of_.query_rows, item_, head_number_, first, end);
        clear_padding<Element>(of_, call_.grad_k, reach_.rows, item_, head_number_, first, end);
        clear_padding<Element>(of_, call_.grad_v, reach_.rows, item_, head_number_, first, end);
        const int64_t end_valid = minimum(end, (head_.length() + reach_.hop - 1) / reach_.hop);
        sums_ = Window{minimum(reach_.first(first, 0), head_.length()), 0};
        sums_.end = sums_.begin;
        clear_provisional_sums();
        for (int64_t b = first; b < end_valid; b += tile) visit_tile(b, minimum(b + tile, end_valid));
        flush(sums_.end);
    }

  private:
    void visit_tile(int64_t first, int64_t end) {
        const int64_t length = head_.length();
        window_ = window_of(reach_, first, end, length);
        flush(window_.begin);
        open(window_.end);
        head_.pack_window(of_.k, window_, first, Form::kBoth, scratch_.keys);
        head_.pack_window(of_.v, window_, first, form_of_values(), scratch_.values);
        for_units(
            of_, first, end, length, kBackwardUnit, [&](int64_t block) { begin_block(block); },
            [&](const Unit& unit) { visit(unit); }, [&](int64_t block) { end_block(block); });
    }

    // Values are read as rows by channel_rows.h alone.
    Form form_of_values() const { return of_.channels.any() ? Form::kBoth : Form::kColumns; }

    void begin_block(int64_t block) {
        head_.prefetch(call_.grad_q, block, of_.query_rows);
        head_.prefetch(call_.grad_k, block, reach_.rows);
        head_.prefetch(call_.grad_v, block, reach_.rows);
        head_.prefetch(of_.q, block + 1, of_.query_rows);
        head_.prefetch(call_.grad_y, block + 1, of_.query_rows);
        head_.prefetch(of_.k, block + 1, reach_.rows);
        head_.prefetch(of_.v, block + 1, reach_.rows);
        head_.pack_block(of_.k, window_, block, Form::kBoth, scratch_.keys);
        head_.pack_block(of_.v, window_, block, form_of_values(), scratch_.values);
    }

    void visit(const Unit& unit) {
        const int64_t padded = head_.padded(), stride = scratch_.stride;
        const MatrixB<Real> queries = head_.pack_unit(of_.q, unit, scratch_.queries, head_.score_scale());
        head_.times_keys(unit, queries, scratch_.keys, window_, scratch_.weights, stride);
        const MatrixB<Real> grads = of_.channels.any() ? channel_gradients(unit) : row_gradients(unit);
        head_.times_rows(unit, scratch_.products, stride, scratch_.keys, window_, scratch_.query_sums);
        for (int64_t i = 0; i < unit.count; ++i) {
            write_row(scratch_.query_sums + i * padded,
                      head_.template unit_row<Element>(call_.grad_q, unit, i), of_.features, head_.scale());
        }
        add_to_keys(unit, scratch_.products, queries, scratch_.key_sums);
        add_to_keys(unit, scratch_.weights, grads, scratch_.value_sums);
    }

    // Scores -> P and dS; the gradients of the unit's rows.
    MatrixB<Real> row_gradients(const Unit& unit) {
        const int64_t stride = scratch_.stride;
        const MatrixB<Real> grads = head_.pack_unit(call_.grad_y, unit, scratch_.grads);
        head_.times_keys(unit, grads, scratch_.values, window_, scratch_.products, stride);
        for (int64_t i = 0; i < unit.count; ++i) {
            Real *weights = scratch_.weights + i * stride, *products = scratch_.products + i * stride;
            head_.weights(unit, i, static_cast<const Real*>(call_.log_sums)[head_.flat_row(unit, i)],
                          weights);
            grad_of_scores(unit, products, weights, weighted_mean(unit, weights, products));
            add_to_bias(unit, i, products);
        }
        return grads;
    }

    // The same where every frame has several rows (channel_rows.h): P and dS of the base, dS of the keys
    // ahead, whose dV is added here; G_0 stands for the gradients of a frame's rows.
    MatrixB<Real> channel_gradients(const Unit& unit) {
        const int64_t stride = scratch_.stride, padded = head_.padded(), length = head_.length();
        const auto at = [&](int64_t i) {
            return ChannelGradient<Element>(call_, item_, head_number_, unit.frame + i, length, padded,
                                            scratch_.channel_row, scratch_.channel_means);
        };
        for (int64_t i = 0; i < unit.count; ++i) {
            Real* weights = scratch_.weights + i * stride;
            head_.add_bias(unit, i, weights);
            const Keys keys = keys_of(of_, unit, i, length);
            memcpy(ahead(i), weights + keys.base, static_cast<size_t>(keys.end - keys.base) * sizeof(Real));
            weights_of(Seen<Real>{keys.first, keys.base}, unit.keys(), at(i).first_log_sum(), weights);
        }
        head_.times_rows(unit, scratch_.weights, stride, scratch_.values, window_, scratch_.query_sums);
        Real sums_ahead[kBackwardUnit];
        for (int64_t i = 0; i < unit.count; ++i) {
            const int64_t base = unit.first + keys_of(of_, unit, i, length).base;
            const MatrixB<Real> values = scratch_.values.from(base - window_.begin);
            ChannelGradient<Element> frame = at(i);
            frame.find_means(scratch_.query_sums + i * padded, ahead(i), values);
            sums_ahead[i] =
                frame.gather(ahead(i), values, scratch_.value_sums + (base - sums_.begin) * padded,
                             scratch_.grads + i * padded);
        }
        const MatrixB<Real> grads{scratch_.grads, padded};
        head_.times_keys(unit, grads, scratch_.values, window_, scratch_.products, stride);
        for (int64_t i = 0; i < unit.count; ++i) {
            Real *weights = scratch_.weights + i * stride, *products = scratch_.products + i * stride;
            const Keys keys = keys_of(of_, unit, i, length);
            grad_of_scores(unit, products, weights, weighted_mean(unit, weights, products) + sums_ahead[i]);
            memcpy(products + keys.base, ahead(i), static_cast<size_t>(keys.end - keys.base) * sizeof(Real));
            add_to_bias(unit, i, products);
        }
        return grads;
    }

    Real* ahead(int64_t i) { return scratch_.ahead + i * of_.channels.rows; }

    // sum(P dP); P is 0 outside the row's frames, and what stands there in dP
    // may be anything.
    static Real weighted_mean(const Unit& unit, const Real* weights, const Real* products) {
        const Vec<Real> nothing{};
        Vec<Real> total{};
        for (int64_t c = 0; c < unit.keys(); c += kLanes<Real>) {
            const Vec<Real> p = load(weights + c);
            total += p > nothing ? p * load(products + c) : nothing;
        }
        return sum<Real>(total);
    }

    // dP -> dS = P (dP - mean), in place.
    static void grad_of_scores(const Unit& unit, Real* products, const Real* weights, Real mean) {
        const Vec<Real> nothing{};
        for (int64_t c = 0; c < unit.keys(); c += kLanes<Real>) {
            const Vec<Real> p = load(weights + c);
            store(products + c, p > nothing ? p * (load(products + c) - mean) : nothing);
        }
    }

    void add_to_bias(const Unit& unit, int64_t i, const Real* products) {
        if (call_.bias_sums.data == nullptr) return;
        Real* sums = head_.template unit_row<Real>(call_.bias_sums, unit, i) + segment_ * call_.bias_segment +
                     head_.first_offset(unit, i);
        const Seen<Real> seen = head_.seen_by(unit, i);
        for (int64_t c = seen.first; c < seen.end; ++c) sums[c - seen.first] += products[c];
    }

    // sums of frame s += weights[i, s] rows[i], over the rows i of the unit.
    void add_to_keys(const Unit& unit, const Real* weights, MatrixB<Real> rows, Real* sums) {
        const int64_t padded = head_.padded();
        add_product<Real>({weights, 1, scratch_.stride}, rows,
                          {sums + (unit.first - sums_.begin) * padded, padded}, unit.keys(), padded,
                          unit.count);
    }

    // What a block's provisional rows gather is whole, since no other block sees them; their place is the
    // next block's.
    void end_block(int64_t block) {
        const int64_t padded = head_.padded(), count = head_.provisional_count(block);
        const int64_t at = ((block + 1) * reach_.hop - sums_.begin) * padded;
        hand_out_provisional(block, count, scratch_.key_sums + at, call_.grad_k, 0);
        hand_out_provisional(block, count, scratch_.value_sums + at, call_.grad_v, 1);
    }

    void hand_out_provisional(int64_t block, int64_t count, Real* sums, const View<void>& grad,
                              int64_t which) {
        const int64_t padded = head_.padded();
        for (int64_t r = 0; r < count; ++r) {
            write_row(sums + r * padded, row_of<Element>(grad, item_, head_number_, block, reach_.hop + r),
                      of_.features, factor_of<Real>(which));
        }
        memset(sums, 0, static_cast<size_t>(count * padded) * sizeof(Real));
    }

    // Behind the sums of final rows stand zeros, for the provisional rows of the block that is visited.
    void clear_provisional_sums() { clear_sums(sums_.size(), provisional_rows(reach_)); }

    void clear_sums(int64_t from, int64_t count) {
        const int64_t padded = head_.padded();
        const size_t bytes = static_cast<size_t>(count * padded) * sizeof(Real);
        memset(scratch_.key_sums + from * padded, 0, bytes);
        memset(scratch_.value_sums + from * padded, 0, bytes);
    }

    // Make room, at zero, for the sums of frames up to `end`.
    void open(int64_t end) {
        if (end <= sums_.end) return;
        clear_sums(sums_.size(), end - sums_.end + provisional_rows(reach_));
        sums_.end = end;
    }

    // No later row sees frames before `until`: hand out their sums, and move the others to the front.
    void flush(int64_t until) {
        const int64_t padded = head_.padded();
        until = minimum(until, sums_.end);
        for (int64_t s = sums_.begin; s < until; ++s) {
            const int64_t at = (s - sums_.begin) * padded;
            hand_out(s, scratch_.key_sums + at, call_.grad_k, 0);
            hand_out(s, scratch_.value_sums + at, call_.grad_v, 1);
        }
        if (until <= sums_.begin) return;
        const size_t bytes = static_cast<size_t>((sums_.end - until) * padded) * sizeof(Real);
        memmove(scratch_.key_sums, scratch_.key_sums + (until - sums_.begin) * padded, bytes);
        memmove(scratch_.value_sums, scratch_.value_sums + (until - sums_.begin) * padded, bytes);
        sums_.begin = until;
        clear_provisional_sums();
    }

    void hand_out(int64_t s, const Real* sums, const View<void>& grad, int64_t which) {
        const int64_t each = call_.segments.blocks_each * reach_.hop;
        for (int64_t border = maximum(0, segment_ - 1); border <= minimum(segment_, call_.segments.count - 2);
             ++border) {
            const int64_t offset = s - ((border + 1) * each - call_.segments.before);
            if (offset < 0 || offset >= call_.segments.before + call_.segments.after) continue;
            const int64_t side = segment_ == border ? 0 : 1;
            Real* to = border_row<Real>(call_, item_, head_number_, border, side, which, offset);
            memcpy(to, sums, static_cast<size_t>(of_.features) * sizeof(Real));
            return;
        }
        write_row(sums, row_of<Element>(grad, item_, head_number_, s / reach_.hop, s % reach_.hop),
                  of_.features, factor_of<Real>(which));
    }

  public:
    template <typename Number>
    static Number* border_row(const Backward& call, int64_t item, int64_t head, int64_t border, int64_t side,
                              int64_t which, int64_t offset) {
        const int64_t size = call.segments.before + call.segments.after;
        const int64_t at =
            (((item * call.of.heads + head) * (call.segments.count - 1) + border) * 2 + side) * 2 + which;
        return static_cast<Number*>(call.borders) + (at * size + offset) * call.of.features;
    }

  private:
    const Backward& call_;
    const Attention& of_;
    const Reach& reach_;
    int64_t item_, head_number_, segment_;
    Head<Element> head_;
    BackwardScratch<Real>& scratch_;
    Window window_{0, 0};  // frames whose keys and values are packed
    Window sums_{0, 0};    // frames whose sums are kept
};

template <typename Element>
void backward_of(const Backward& call, int64_t first_task, int64_t end_task, void* memory) {
    BackwardScratch<typename ComputeType<Element>::Type> scratch(call.of, memory);
    for (int64_t task = first_task; task < end_task; ++task) {
        const int64_t head = task / call.segments.count;
        Walk<Element>(call, head / call.of.heads, head % call.of.heads, task % call.segments.count, scratch)
            .run();
    }
}

template <typename Element>
void add_borders_of(const Backward& call, int64_t first_task, int64_t end_task) {
    using Real = typename ComputeType<Element>::Type;
    const Segments& segments = call.segments;
    const int64_t borders = segments.count - 1, hop = call.of.reach.hop;
    for (int64_t task = first_task; task < end_task; ++task) {
        const int64_t item = task / borders / call.of.heads, head = task / borders % call.of.heads,
                      border = task % borders;
        const int64_t from = (border + 1) * segments.blocks_each * hop - segments.before;
        for (int64_t offset = 0; offset < segments.before + segments.after; ++offset) {
            const int64_t s = from + offset;
            if (s < 0 || s >= call.of.length(item)) continue;
            for (int64_t which = 0; which < 2; ++which) {
                Real* left =
                    Walk<Element>::template border_row<Real>(call, item, head, border, 0, which, offset);
                const Real* right =
                    Walk<Element>::template border_row<Real>(call, item, head, border, 1, which, offset);
                for (int64_t d = 0; d < call.of.features; ++d) left[d] += right[d];
                const View<void>& grad = which == 0 ? call.grad_k : call.grad_v;
                write_row(left, row_of<Element>(grad, item, head, s / hop, s % hop), call.of.features,
                          factor_of<Real>(which));
            }
        }
    }
}

}  // namespace
}  // namespace headrace::HEADRACE_ISA

// SPDX-License-Identifier: Apache-2.0
// One tick of one head of one stream. The keys in sight are brought into the order of their frames, from the
// ring and from the new rows; then the rows are computed as in forward.h, and the new final rows take their
// places in the ring.
#pragma once

#include "memory.h"
#include "softmax.h"

extern "C" double sqrt(double);

namespace headrace::HEADRACE_ISA {
namespace {  // one copy for each instruction set: see vector.h

constexpr int64_t kStepUnit = kRows;

inline int64_t most_keys(const Step& call) {
    return call.reach.look_back + (call.reach.is_band ? call.reach.look_ahead : 0) + call.key_rows;
}

template <typename Real>
struct StepScratch {
    Packed<Real> keys, values;
    Real *queries, *scores, *sums;
    int64_t stride;
    size_t bytes;

    StepScratch(const Step& call, void* memory) {
        Arena arena(memory);
        const int64_t padded = round_up(call.features, kLanes<Real>);
        keys = Packed<Real>::take(arena, most_keys(call), padded);
        values = Packed<Real>::take(arena, most_keys(call), padded);
        stride = round_up(most_keys(call), kLanes<Real>) + 2 * kLanes<Real>;
        queries = arena.take<Real>(kStepUnit * padded);
        scores = arena.take<Real>(kStepUnit * stride);
        sums = arena.take<Real>(kStepUnit * padded);
        bytes = arena.used();
    }
};

template <typename Element>
class Tick {
  public:
    using Real = typename ComputeType<Element>::Type;

    Tick(const Step& call, int64_t stream, int64_t head, StepScratch<Real>& scratch)
        : call_(call),
          stream_(stream),
          head_(head),
          slot_(call.slots[stream]),
          position_(call.positions[slot_]),
          length_(call.lengths == nullptr ? INT64_MAX : call.lengths[stream]),
          padded_(round_up(call.features, kLanes<Real>)),
          scratch_(scratch) {}

    void run() {
        const Reach& reach = call_.reach;
        const int64_t oldest = first_frame() - reach.look_back;
        begin_ = maximum(0, oldest);
        end_ = maximum(begin_, minimum(position_ + call_.key_rows, length_));
        pack(call_.key_ring, call_.k, scratch_.keys);
        pack(call_.value_ring, call_.v, scratch_.values);
        transpose_rows<Real>(scratch_.keys.from(0), end_ - begin_, padded_, scratch_.keys.columns,
                             scratch_.keys.stride);
        for (int64_t i = 0; i < call_.query_rows; i += kStepUnit) {
            attend(i, minimum(kStepUnit, call_.query_rows - i));
        }
        const int64_t kept = reach.is_band ? call_.key_rows : reach.hop;
        for (int64_t i = maximum(0, -position_); i < kept; ++i) {  // frames before the first do not exist
            keep(call_.key_ring, call_.k, i);
            keep(call_.value_ring, call_.v, i);
        }
    }

  private:
    // Frame of the first query.
    int64_t first_frame() const { return position_ - (call_.reach.is_band ? call_.reach.look_ahead : 0); }

    const Element* new_row(const View<const void>& view, int64_t i) const {
        return static_cast<const Element*>(view.data) + stream_ * view.strides.item +
               head_ * view.strides.head + i * view.strides.row;
    }
    Element* ring_row(void* ring, int64_t frame) const {
        const int64_t at = (slot_ * call_.heads + head_) * call_.ring_frames + frame % call_.ring_frames;
        return static_cast<Element*>(ring) + at * call_.features;
    }

    void pack(void* ring, const View<const void>& fresh, Packed<Real>& to) const {
        for (int64_t s = begin_; s < end_; ++s) {
            const Element* from = s < position_ ? ring_row(ring, s) : new_row(fresh, s - position_);
            read_row(from, to.rows + (s - begin_) * padded_, call_.features, padded_, Real(1));
        }
    }

    void keep(void* ring, const View<const void>& fresh, int64_t i) const {
        memcpy(ring_row(ring, position_ + i), new_row(fresh, i),
               static_cast<size_t>(call_.features) * sizeof(Element));
    }

    // The frames that query i sees, as columns.
    Seen<Real> seen_by(int64_t i) const {
        const Reach& reach = call_.reach;
        const int64_t frame = first_frame() + i;
        const int64_t first = (reach.per_block ? position_ : frame) - reach.look_back;
        const int64_t end = reach.is_band ? frame + reach.look_ahead + 1 : position_ + reach.rows;
        return {maximum(first, begin_) - begin_, minimum(end, end_) - begin_};
    }

    void add_bias_of(int64_t i, const Seen<Real>& seen, Real* scores) const {
        if (call_.bias.data == nullptr) return;
        const int64_t first_offset = begin_ + seen.first - (first_frame() + i) - call_.reach.lowest_offset();
        add_bias(row_of<Real>(call_.bias, stream_, head_, 0, i) + first_offset, seen.first, seen.end, scores);
    }

    void attend(int64_t first, int64_t count) {
        const int64_t keys = end_ - begin_, stride = scratch_.stride;
        const Real scale = static_cast<Real>(kLog2E / sqrt(static_cast<double>(call_.features)));
        for (int64_t i = 0; i < count; ++i) {
            read_row(new_row(call_.q, first + i), scratch_.queries + i * padded_, call_.features, padded_,
                     scale);
        }
        product<Real>({scratch_.queries, padded_, 1}, {scratch_.keys.columns, scratch_.keys.stride},
                      {scratch_.scores, stride}, count, keys, call_.features);
        Real totals[kStepUnit];
        for (int64_t i = 0; i < count; ++i) {
            Real most;
            Real* scores = scratch_.scores + i * stride;
            const Seen<Real> seen = seen_by(first + i);
            add_bias_of(first + i, seen, scores);
            totals[i] = powers(seen, keys, scores, &most);
        }
        product<Real>({scratch_.scores, stride, 1}, scratch_.values.from(0), {scratch_.sums, padded_}, count,
                      padded_, keys);
        for (int64_t i = 0; i < count; ++i) {
            const int64_t frame = first_frame() + first + i;
            Element* to = static_cast<Element*>(call_.y.data) + stream_ * call_.y.strides.item +
                          head_ * call_.y.strides.head + (first + i) * call_.y.strides.row;
            if (frame < 0 || frame >= length_) {
                write_zeros(to, call_.features);
            } else {
                write_row(scratch_.sums + i * padded_, to, call_.features, 1 / totals[i]);
            }
        }
    }

    const Step& call_;
    int64_t stream_, head_, slot_, position_, length_, padded_;
    int64_t begin_ = 0, end_ = 0;  // frames of the keys in sight
    StepScratch<Real>& scratch_;
};

template <typename Element>
void step_of(const Step& call, int64_t first_task, int64_t end_task, void* memory) {
    StepScratch<typename ComputeType<Element>::Type> scratch(call, memory);
    for (int64_t task = first_task; task < end_task; ++task) {
        Tick<Element>(call, task / call.heads, task % call.heads, scratch).run();
    }
}

}  // namespace
}  // namespace headrace::HEADRACE_ISA

// SPDX-License-Identifier: Apache-2.0
// One tick of live running: the new rows of a stream against the final rows in its ring and against each
// other; then the new final rows take their places in the ring.
//
// Tile         one head of one stream; a thread block of 8 warps, one query row a warp at a time
// Loads        all threads bring the keys and values in sight, 64 at a time, from the ring and from the new
//              rows, in the order of their frames
// Shared       2 x 64 rows of D + 1 numbers and 8 rows of D, in fp32: 37 KB for D = 64, 70 KB for 128
// Accumulates  in fp32, with the running softmax: a lane scores two keys of a chunk and sums up to four
// features
#pragma once

#include "device.cuh"

namespace headrace::cuda {

constexpr int kStepWarps = 8;
constexpr int kStepThreads = kStepWarps * kWarp;
constexpr int kStepChunk = 2 * kWarp;
constexpr int kStepFeatures = 128;  // at most

HEADRACE_BOTH int step_shared_bytes(int64_t features) {
    return static_cast<int>((2 * kStepChunk * (features + 1) + kStepWarps * features) * sizeof(float));
}

template <typename Element>
class Tick {
  public:
    HEADRACE_DEVICE Tick(const Step& call, void* shared)
        : call_(call),
          stream_(block() / call.heads),
          head_(block() % call.heads),
          slot_(call.slots[stream_]),
          position_(call.positions[slot_]),
          length_(call.lengths == nullptr ? INT64_MAX : call.lengths[stream_]),
          stride_(static_cast<int>(call.features) + 1),
          lane_(thread() % kWarp) {
        keys_ = static_cast<float*>(shared);
        values_ = keys_ + kStepChunk * stride_;
        query_ = values_ + kStepChunk * stride_ + thread() / kWarp * call.features;
        const int64_t oldest = first_frame() - call.reach.look_back;
        const int64_t newest = position_ + call.key_rows;
        begin_ = oldest > 0 ? oldest : 0;
        end_ = newest < length_ ? newest : length_;
    }

    HEADRACE_DEVICE void run() {
        for (int64_t row = 0; row < call_.query_rows; row += kStepWarps) attend(row + thread() / kWarp);
        const int64_t kept = call_.reach.is_band ? call_.key_rows : call_.reach.hop;
        for (int64_t i = thread(); i < kept * call_.features; i += kStepThreads) {
            const int64_t row = i / call_.features, d = i % call_.features;
            if (position_ + row < 0) continue;  // frames before the first do not exist
            ring_row(call_.key_ring, position_ + row)[d] = new_row(call_.k, row)[d];
            ring_row(call_.value_ring, position_ + row)[d] = new_row(call_.v, row)[d];
        }
    }

  private:
    // Frame of the first query.
    HEADRACE_DEVICE int64_t first_frame() const {
        return position_ - (call_.reach.is_band ? call_.reach.look_ahead : 0);
    }
    HEADRACE_DEVICE const Element* new_row(const View<const void>& view, int64_t i) const {
        return static_cast<const Element*>(view.data) + stream_ * view.strides.item +
               head_ * view.strides.head + i * view.strides.row;
    }
    HEADRACE_DEVICE Element* ring_row(void* ring, int64_t frame) const {
        const int64_t at = (slot_ * call_.heads + head_) * call_.ring_frames + frame % call_.ring_frames;
        return static_cast<Element*>(ring) + at * call_.features;
    }

    // Frames [begin, end), by all threads.
    HEADRACE_DEVICE void load(float* to, void* ring, const View<const void>& fresh, int64_t begin,
                              int64_t end) const {
        for (int64_t i = thread(); i < (end - begin) * call_.features; i += kStepThreads) {
            const int64_t row = i / call_.features, d = i % call_.features, frame = begin + row;
            const Element* from =
                frame < position_ ? ring_row(ring, frame) : new_row(fresh, frame - position_);
            to[row * stride_ + d] = to_float(from[d]);
        }
    }

    // One query row of the warp, if there is one; all threads come here together.
    HEADRACE_DEVICE void attend(int64_t row) {
        const Reach& reach = call_.reach;
        const int64_t frame = first_frame() + row;
        const bool exists = row < call_.query_rows && frame >= 0 && frame < length_;
        const int64_t first = exists ? (reach.per_block ? position_ : frame) - reach.look_back : 0;
        const int64_t end = exists ? (reach.is_band ? frame + reach.look_ahead + 1 : end_) : 0;
        if (exists) {
            for (int64_t d = lane_; d < call_.features; d += kWarp)
                query_[d] = to_float(new_row(call_.q, row)[d]);
        }
        warp_barrier();
        float most = -INFINITY, total = 0, sums[kStepFeatures / kWarp] = {};
        for (int64_t begin = begin_; begin < end_; begin += kStepChunk) {
            const int64_t until = end_ - begin < kStepChunk ? end_ : begin + kStepChunk;
            load(keys_, call_.key_ring, call_.k, begin, until);
            load(values_, call_.value_ring, call_.v, begin, until);
            barrier();
            const int64_t from = first > begin ? first : begin, to = end < until ? end : until;
            if (from < to)
                add(static_cast<int>(from - begin), static_cast<int>(to - begin), most, total, sums);
            barrier();
        }
        if (row >= call_.query_rows) return;
        const float inverse = total > 0 ? 1 / total : 0;
        Element* y = static_cast<Element*>(call_.y.data) + stream_ * call_.y.strides.item +
                     head_ * call_.y.strides.head + row * call_.y.strides.row;
#pragma unroll
        for (int i = 0; i < kStepFeatures / kWarp; ++i) {
            const int64_t d = lane_ + i * kWarp;
            if (d < call_.features) y[d] = from_float(sums[i] * inverse, Element{});
        }
    }

    // Keys [from, to) of the chunk.
    HEADRACE_DEVICE void add(int from, int to, float& most, float& total,
                             float (&sums)[kStepFeatures / kWarp]) const {
        const float scale = kLog2E * rsqrtf(static_cast<float>(call_.features));
        float weights[2];
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int key = lane_ + half * kWarp;
            weights[half] = -INFINITY;
            if (key < from || key >= to) continue;
            float product = 0;
            for (int d = 0; d < call_.features; ++d) product += query_[d] * keys_[key * stride_ + d];
            weights[half] = product * scale;
        }
        const float before = most;
        most = fmaxf(most, largest_number_of_warp(fmaxf(weights[0], weights[1])));
        const float shrink = power_of_2(before - most);
        for (int half = 0; half < 2; ++half) weights[half] = power_of_2(weights[half] - most);
        total = total * shrink + sum_of_warp(weights[0] + weights[1]);
        for (float& sum : sums) sum *= shrink;
        for (int key = from; key < to; ++key) {
            const float weight = value_of_lane(key < kWarp ? weights[0] : weights[1], key % kWarp);
#pragma unroll
            for (int i = 0; i < kStepFeatures / kWarp; ++i) {
                const int d = lane_ + i * kWarp;
                if (d < call_.features) sums[i] += weight * values_[key * stride_ + d];
            }
        }
    }

    const Step& call_;
    int64_t stream_, head_, slot_, position_, length_;
    int64_t begin_, end_;  // frames of the keys in sight
    int stride_, lane_;
    float *keys_, *values_, *query_;
};

}  // namespace headrace::cuda

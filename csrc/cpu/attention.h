// SPDX-License-Identifier: Apache-2.0
// One call of an operation as plain data, and the kernels that compute it: what the torch binding and the
// kernels share.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../common/reach.h"

namespace headrace {

enum class Element : int { kFloat32, kFloat64, kFloat16, kBFloat16 };

struct Strides {
    int64_t item, head, block, row;  // in elements; features have stride 1
};

template <typename Data>
struct View {
    Data* data;
    Strides strides;
};

// The rows of the first layer of LLSA, whose input has no channel axis: frame f is row f - b * hop of each
// block b in [first_block(f), end_block(f)); it sees the same keys in all of them, up to end(b).
struct ChannelRows {
    int64_t blocks, hop, rows;  // rows of a block; 0: the operation's rows are its queries

    HEADRACE_BOTH bool any() const { return rows > 0; }
    // Of those with a row, the last ones past the utterance.
    HEADRACE_BOTH int64_t frames() const { return blocks * hop + rows - hop; }
    HEADRACE_BOTH int64_t first_block(int64_t frame) const {
        return frame < rows ? 0 : (frame - rows) / hop + 1;
    }
    HEADRACE_BOTH int64_t end_block(int64_t frame) const {
        return frame / hop < blocks ? frame / hop + 1 : blocks;
    }
    HEADRACE_BOTH int64_t end(int64_t block, int64_t length) const {
        const int64_t to = block * hop + rows;
        return to < length ? to : length;
    }
};

// q: [items, heads, blocks, query_rows, features], k and v: [items, heads, blocks, reach.rows, features];
// query_rows is reach.rows, or reach.hop where only final rows are asked for. A band has one row a block.
struct Attention {
    int64_t items, heads, blocks, query_rows, features;
    Reach reach;
    Element element;
    const int64_t* lengths;  // frames of each item, clamped here; null: all
    View<const void> bias;   // [items, heads, blocks, query_rows, reach.num_offsets()] of the compute type,
                             // with strides of 0 where it is the same; null: none
    View<const void> q, k, v;
    ChannelRows channels;  // of y, its gradient and log_sums, where they have more rows than q

    HEADRACE_BOTH int64_t frames() const { return blocks * reach.hop; }
    HEADRACE_BOTH int64_t length(int64_t item) const {
        if (lengths == nullptr) return frames();
        const int64_t given = lengths[item] < 0 ? 0 : lengths[item];
        return given < frames() ? given : frames();
    }
};

struct Forward {
    Attention of;
    View<void> y;
    void* log_sums;  // [items, heads, blocks, query_rows] of the compute type: log to base 2 of the softmax's
                     // denominator
};

// A segment is a run of blocks that one task walks along. Keys near a border between segments get gradients
// from both sides: each side's sums go to `borders`, and are added in a second pass, so that no order depends
// on threads.
struct Segments {
    int64_t count, blocks_each;
    int64_t before, after;  // frames before and after a border whose keys both sides see
};

struct Backward {
    Attention of;
    View<const void> grad_y;
    const void* log_sums;
    View<void> grad_q, grad_k, grad_v;
    Segments segments;
    void* borders;  // [items, heads, segments - 1, side, key or value, before + after, features], zeroed
    // Where rows add their dS, zeroed, of the compute type: the gradient of a bias for each query, or a part
    // for each segment, [items, heads, segments, num_offsets], of one that queries share. Null: none.
    View<void> bias_sums;
    int64_t bias_segment;  // elements from a segment's part to the next
};

// One tick of live running. A stream's ring holds the final keys and values of its last `ring_frames` frames,
// frame s at s % ring_frames; its position is the number of frames that it has taken. A band takes key_rows
// new frames and gives the query_rows = key_rows frames that lie look_ahead behind them; blocks take and give
// the block at the position.
struct Step {
    int64_t streams, heads, query_rows, key_rows, features;
    Reach reach;
    Element element;
    const int64_t* lengths;       // [streams] frames that exist; null: no end is known
    View<const void> q, k, v;     // [streams, heads, rows, features]
    View<void> y;                 // [streams, heads, query_rows, features]
    void *key_ring, *value_ring;  // [slots, heads, ring_frames, features], contiguous
    int64_t ring_frames;
    const int64_t* positions;  // [slots]
    const int64_t* slots;      // [streams], each once
    // [streams, heads, query_rows, reach.num_offsets()] of the compute type; null: none
    View<const void> bias;
};

// y = x W^T + bias (few_rows.h).
struct LinearOfFewRows {
    int64_t rows, channels, depth;
    const float* x;  // [rows, depth], unit stride along depth
    int64_t x_stride;
    const float* weight;  // [channels, depth]
    const float* bias;    // [channels]; null: none
    float* y;             // [rows, channels]
};

// y = x W^T + bias with 8-bit weights (int8.h). Rows of x and of W are padded with zeros to `padded` numbers.
constexpr int64_t kInt8Padding = 64;

struct Int8Rows {
    const float* x;  // [rows, depth], unit stride along depth
    int64_t stride, depth, padded;
    int16_t* to;    // [rows, padded]
    float* scales;  // [rows]
};

struct Int8Product {
    int64_t rows, channels, padded;
    const int16_t* x;       // [rows, padded]
    const float* x_scales;  // [rows]
    const int8_t* weight;   // [channels, padded]
    const float* weight_scales;
    const float* bias;  // [channels]; null: none
    float* y;           // [rows, channels]
};

// Tasks are independent; a task's result does not depend on which thread runs it.
struct Kernels {
    const char* name;
    int64_t (*forward_tasks)(const Forward&);
    size_t (*forward_scratch_bytes)(const Forward&);
    void (*forward)(const Forward&, int64_t first_task, int64_t end_task, void* scratch);
    size_t (*backward_scratch_bytes)(const Backward&);
    void (*backward)(const Backward&, int64_t first_task, int64_t end_task,
                     void* scratch);  // items * heads * segments
    size_t (*step_scratch_bytes)(const Step&);
    void (*step)(const Step&, int64_t first_task, int64_t end_task, void* scratch);  // streams * heads
    void (*add_borders)(const Backward&, int64_t first_task,
                        int64_t end_task);  // items * heads * (segments - 1)
    void (*few_rows_linear)(const LinearOfFewRows&, int64_t first_channel, int64_t end_channel);
    void (*int8_quantize)(const Int8Rows&, int64_t first_row, int64_t end_row);
    void (*int8_product)(const Int8Product&, int64_t first_channel, int64_t end_channel);
};

// The fastest kernels that this machine can run; HEADRACE_CPU=avx512|avx2|baseline asks for one.
const Kernels& kernels();

}  // namespace headrace

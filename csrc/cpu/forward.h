// SPDX-License-Identifier: Apache-2.0
// Forward of one tile: scores of a unit, their softmax in one go, and the weighted sum of the values.
#pragma once

#include "channel_rows.h"

namespace headrace::HEADRACE_ISA {
namespace {  // one copy for each instruction set: see vector.h

template <typename Real>
struct ForwardScratch {
    Packed<Real> keys, values;
    Real *queries, *scores, *sums;
    Real* ahead;     // [kForwardUnit, rows of a block]: of channel rows
    int64_t stride;  // of a row of scores
    size_t bytes;

    ForwardScratch(const Attention& of, void* memory) {
        Arena arena(memory);
        const int64_t padded = round_up(of.features, kLanes<Real>);
        const int64_t window = largest_window(of.reach, of.blocks, of.frames());
        keys = Packed<Real>::take(arena, window, padded);
        values = Packed<Real>::take(arena, window, padded);
        stride = round_up(window, kLanes<Real>) + 2 * kLanes<Real>;
        queries = arena.take<Real>(kForwardUnit * padded);
        scores = arena.take<Real>(kForwardUnit * stride);
        sums = arena.take<Real>(kForwardUnit * padded);
        ahead = arena.take<Real>(kForwardUnit * of.channels.rows);
        bytes = arena.used();
    }
};

template <typename Real>
void clear_log_sums(const Forward& call, int64_t item, int64_t head, int64_t first, int64_t end) {
    const int64_t rows = call.of.query_rows, length = call.of.length(item);
    Real* log_sums =
        static_cast<Real*>(call.log_sums) + (item * call.of.heads + head) * call.of.blocks * rows;
    for (int64_t b = first; b < end; ++b) {
        for (int64_t r = 0; r < rows; ++r) {
            if (call.of.reach.frame(b, r) >= length) log_sums[b * rows + r] = 0;
        }
    }
}

template <typename Element>
void forward_tile(const Forward& call, int64_t item, int64_t head_number, int64_t first, int64_t end,
                  ForwardScratch<typename ComputeType<Element>::Type>& scratch) {
    using Real = typename ComputeType<Element>::Type;
    const Attention& of = call.of;
    const Head<Element> head(of, item, head_number);
    const int64_t length = head.length(), padded = head.padded();
    const Window window = window_of(of.reach, first, end, length);

    if (of.channels.any()) {
        clear_channel_rows<Element>(call, item, head_number, maximum(first, length), end);
    } else {
        clear_padding<Element>(of, call.y, of.query_rows, item, head_number, first, end);
        clear_log_sums<Real>(call, item, head_number, first, end);
    }
    head.pack_window(of.k, window, first, Form::kColumns, scratch.keys);
    head.pack_window(of.v, window, first, Form::kRows, scratch.values);

    for_units(
        of, first, end, length, kForwardUnit,
        [&](int64_t block) {
            head.prefetch(call.y, block, of.query_rows);
            head.prefetch(of.q, block + 1, of.query_rows);
            head.prefetch(of.k, block + 1, of.reach.rows);
            head.prefetch(of.v, block + 1, of.reach.rows);
            head.pack_block(of.k, window, block, Form::kColumns, scratch.keys);
            head.pack_block(of.v, window, block, Form::kRows, scratch.values);
        },
        [&](const Unit& unit) {
            const MatrixB<Real> queries = head.pack_unit(of.q, unit, scratch.queries, head.score_scale());
            head.times_keys(unit, queries, scratch.keys, window, scratch.scores, scratch.stride);
            if (of.channels.any()) {
                forward_channel_rows<Element>(call, head, item, head_number, unit, window, scratch);
                return;
            }
            Real inverse[kForwardUnit];
            for (int64_t i = 0; i < unit.count; ++i) {
                Real most;
                const Real total = head.powers(unit, i, scratch.scores + i * scratch.stride, &most);
                inverse[i] = 1 / total;
                static_cast<Real*>(call.log_sums)[head.flat_row(unit, i)] = log_of_sum(most, total);
            }
            head.times_rows(unit, scratch.scores, scratch.stride, scratch.values, window, scratch.sums);
            for (int64_t i = 0; i < unit.count; ++i) {
                write_row(scratch.sums + i * padded, head.template unit_row<Element>(call.y, unit, i),
                          of.features, inverse[i]);
            }
        },
        [](int64_t) {});
}

// Frames with rows past the utterance's last one are taken too: their rows are zeros.
int64_t blocks_to_write(const Attention& of) {
    return of.channels.any() ? of.channels.frames() : of.blocks;
}

int64_t tiles_of(const Attention& of) {
    const int64_t tile = blocks_of_tile(of.reach);
    return (blocks_to_write(of) + tile - 1) / tile;
}

template <typename Element>
void forward_of(const Forward& call, int64_t first_task, int64_t end_task, void* memory) {
    ForwardScratch<typename ComputeType<Element>::Type> scratch(call.of, memory);
    const int64_t tiles = tiles_of(call.of), tile = blocks_of_tile(call.of.reach);
    for (int64_t task = first_task; task < end_task; ++task) {
        const int64_t head = task / tiles, first = task % tiles * tile;
        forward_tile<Element>(call, head / call.of.heads, head % call.of.heads, first,
                              minimum(first + tile, blocks_to_write(call.of)), scratch);
    }
}

}  // namespace
}  // namespace headrace::HEADRACE_ISA

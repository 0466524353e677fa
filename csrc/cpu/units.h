// SPDX-License-Identifier: Apache-2.0
// How the rows of a head are divided: tiles of blocks, the window of final rows that a tile looks up, and
// units, a few neighbouring rows whose keys are one interval of frames.
#pragma once

#include "attention.h"
#include "matmul.h"

namespace headrace::HEADRACE_ISA {
namespace {  // one copy for each instruction set: see vector.h

constexpr int64_t kTileRows = 252;            // a tile's rows share the work on its window,
constexpr int64_t kTileFrames = 126;          // which should stay in the second-level cache
constexpr int64_t kForwardUnit = kRows;       // rows that share the registers of one product
constexpr int64_t kBackwardUnit = 2 * kRows;  // more: each visit of dK and dV then does more work

int64_t minimum(int64_t a, int64_t b) {
    return a < b ? a : b;
}
int64_t maximum(int64_t a, int64_t b) {
    return a > b ? a : b;
}
int64_t round_up(int64_t n, int64_t step) {
    return (n + step - 1) / step * step;
}

int64_t blocks_of_tile(const Reach& reach) {
    return maximum(1, minimum(kTileRows / reach.rows, kTileFrames / reach.hop));
}

// A block's rows past its hop final ones.
int64_t provisional_rows(const Reach& reach) {
    return reach.rows - reach.hop;
}

// The frames whose final rows the rows of blocks [first, end) see: [begin, end). While a block is visited,
// its provisional rows stand behind its final ones, where those of later blocks will stand: so the keys of a
// row are one interval of the window's rows.
struct Window {
    int64_t begin, end;
    int64_t size() const { return end - begin; }
};

Window window_of(const Reach& reach, int64_t first_block, int64_t end_block, int64_t length) {
    const int64_t begin = minimum(reach.first(first_block, 0), length);
    const int64_t end =
        reach.is_band ? reach.end(end_block - 1, 0, length) : minimum(end_block * reach.hop, length);
    return Window{begin, maximum(begin, end)};
}

// Of a tile: the frames of its window, and room behind them for a block's provisional rows.
int64_t largest_window(const Reach& reach, int64_t blocks, int64_t frames) {
    if (reach.look_back < 0) return frames + provisional_rows(reach);
    const int64_t tile = minimum(blocks, blocks_of_tile(reach));
    const int64_t seen = tile * reach.hop + reach.look_back + (reach.is_band ? reach.farthest_ahead() : 0);
    return minimum(frames, seen) + provisional_rows(reach);
}

// A few neighbouring rows: of one block, or of one-row blocks (a band). Their keys are the frames [first,
// end).
struct Unit {
    int64_t block, row, count;
    int64_t frame, first, end;

    int64_t keys() const { return end - first; }
};

Unit unit_of(const Reach& reach, int64_t block, int64_t row, int64_t count, int64_t length) {
    const int64_t frame = reach.frame(block, row);
    count = minimum(count, length - frame);
    Unit unit{block, row, count, frame, reach.first(block, row), 0};
    unit.end = reach.is_band ? reach.end(block + count - 1, 0, length) : reach.end(block, row, length);
    return unit;
}

// Row i of a unit.
int64_t first_of(const Reach& reach, const Unit& unit, int64_t i) {
    return reach.is_band ? reach.first(unit.block + i, 0) : reach.first(unit.block, unit.row + i);
}
int64_t end_of(const Reach& reach, const Unit& unit, int64_t i, int64_t length) {
    return reach.is_band ? reach.end(unit.block + i, 0, length) : unit.end;
}

// Visit the units of blocks [first, end): `begin_block(b)` before the first unit of a block (not of a band),
// `visit(unit)` for each, `end_block(b)` after the last. Rows at or past the length are in no unit.
template <typename BeginBlock, typename Visit, typename EndBlock>
void for_units(const Attention& of, int64_t first, int64_t end, int64_t length, int64_t unit_rows,
               const BeginBlock& begin_block, const Visit& visit, const EndBlock& end_block) {
    const Reach& reach = of.reach;
    if (reach.is_band) {
        for (int64_t t = first; t < minimum(end, length); t += unit_rows) {
            visit(unit_of(reach, t, 0, minimum(unit_rows, end - t), length));
        }
        return;
    }
    const int64_t pieces = (of.query_rows + unit_rows - 1) / unit_rows;
    const int64_t even = (of.query_rows + pieces - 1) / pieces;
    for (int64_t b = first; b < end && b * reach.hop < length; ++b) {
        begin_block(b);
        for (int64_t r = 0; r < of.query_rows && reach.frame(b, r) < length; r += even) {
            visit(unit_of(reach, b, r, minimum(even, of.query_rows - r), length));
        }
        end_block(b);
    }
}

}  // namespace
}  // namespace headrace::HEADRACE_ISA

// SPDX-License-Identifier: Apache-2.0
// What a thread block works on: up to kTileRows rows of one head, and the keys that they see.
//
// Keys are numbered: first the window of final rows, [0, finals), padded to a multiple of 16, then the own
// rows of the tile's blocks. A row sees two intervals of these numbers, so that masks are comparisons.
#pragma once

#include "device.cuh"

namespace headrace::cuda {

constexpr int kTileRows = 64;

struct Interval {
    int begin, end;
};

struct Tiling {
    int64_t blocks_of_tile;  // whole blocks in a tile, or 1
    int64_t tiles_of_block;  // tiles that share a block, or 1
    int64_t tiles;           // of a head

    HEADRACE_BOTH static Tiling of(const Attention& of) {
        const int64_t rows = of.query_rows;
        if (rows > kTileRows) {
            const int64_t shared = (rows + kTileRows - 1) / kTileRows;
            return Tiling{1, shared, of.blocks * shared};
        }
        const int64_t together = kTileRows / rows;
        return Tiling{together, 1, (of.blocks + together - 1) / together};
    }
};

struct Tile {
    int64_t item, head, first_block, first_row, last_block, length;
    int64_t window;  // first frame that is looked up among the final rows
    int rows;        // rows that exist in q, whether or not their frames do
    int finals;      // final rows in the window
    int own_begin;   // number of the first own key
    int keys;        // numbers of keys

    HEADRACE_BOTH Tile(const Attention& of, int64_t index) {
        const Tiling tiling = Tiling::of(of);
        const Reach& reach = of.reach;
        const int64_t row_of_heads = index / tiling.tiles, tile = index % tiling.tiles;
        item = row_of_heads / of.heads;
        head = row_of_heads % of.heads;
        length = of.length(item);
        first_block = tile / tiling.tiles_of_block * tiling.blocks_of_tile;
        first_row = tile % tiling.tiles_of_block * kTileRows;
        const int64_t blocks_left = of.blocks - first_block, rows_left = of.query_rows - first_row;
        if (tiling.tiles_of_block > 1) {
            rows = static_cast<int>(rows_left < kTileRows ? rows_left : kTileRows);
            last_block = first_block;
        } else {
            const int64_t blocks = blocks_left < tiling.blocks_of_tile ? blocks_left : tiling.blocks_of_tile;
            rows = static_cast<int>(blocks * of.query_rows);
            last_block = first_block + blocks - 1;
        }
        const int64_t last_that_exists = length > 0 ? (length - 1) / reach.hop : 0;
        if (last_block > last_that_exists) last_block = last_that_exists;
        window = reach.first(first_block, first_row);
        int64_t window_end = reach.is_band ? reach.end(last_block, 0, length) : reach.own_begin(last_block);
        if (window_end > length) window_end = length;
        finals = window_end > window ? static_cast<int>(window_end - window) : 0;
        own_begin = (finals + 15) / 16 * 16;
        keys =
            own_begin + (reach.is_band ? 0 : static_cast<int>((last_block - first_block + 1) * reach.rows));
    }

    HEADRACE_BOTH int64_t block_of(const Attention& of, int i) const {
        return first_block + (first_row + i) / of.query_rows;
    }
    HEADRACE_BOTH int64_t row_of(const Attention& of, int i) const { return (first_row + i) % of.query_rows; }

    HEADRACE_BOTH bool exists(const Attention& of, int i) const {
        return i < rows && of.reach.frame(block_of(of, i), row_of(of, i)) < length;
    }

    // Numbers of the final keys that row i sees.
    HEADRACE_BOTH Interval finals_of(const Attention& of, int i) const {
        const int64_t block = block_of(of, i), row = row_of(of, i);
        const int64_t end = of.reach.end(block, row, length), own = of.reach.own_begin(block);
        return Interval{static_cast<int>(of.reach.first(block, row) - window),
                        static_cast<int>((end < own ? end : own) - window)};
    }

    // Numbers of the own keys that row i sees.
    HEADRACE_BOTH Interval owns_of(const Attention& of, int i) const {
        if (of.reach.is_band) return Interval{0, 0};
        const int64_t block = block_of(of, i), row = row_of(of, i);
        const int64_t skipped = of.reach.first(block, row) - of.reach.own_begin(block);
        const int64_t first = own_begin + (block - first_block) * of.reach.rows;
        return Interval{
            static_cast<int>(first + (skipped > 0 ? skipped : 0)),
            static_cast<int>(first + of.reach.end(block, row, length) - of.reach.own_begin(block))};
    }

    // Where a key stands in [blocks, rows]; false for a number that stands for none.
    HEADRACE_BOTH bool locate(const Attention& of, int number, int64_t* block, int64_t* row) const {
        if (number < own_begin) {
            const int64_t frame = window + number;
            *block = frame / of.reach.hop;
            *row = frame % of.reach.hop;
            return number < finals;
        }
        const int64_t own = number - own_begin;
        *block = first_block + own / of.reach.rows;
        *row = own % of.reach.rows;
        return number < keys && of.reach.frame(*block, *row) < length;
    }
};

}  // namespace headrace::cuda

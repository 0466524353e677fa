// SPDX-License-Identifier: Apache-2.0
// What a thread block works on: up to kTileRows query rows of one head, and the keys that they see.
//
// Keys are numbered: first the window of final rows, [0, finals), padded to a multiple of 16, then the own
// rows of the tile's blocks. A row sees two intervals of these numbers, so that masks are comparisons.
#pragma once

#include "plan.cuh"

namespace headrace::cuda {

struct Interval {
    int begin, end;
};

// Where a row stands in [blocks, rows].
struct Place {
    int block, row;
    bool exists;
};

struct Tile {
    int item, head, length;
    int first_query;        // number of row 0 in [blocks, query_rows]
    int first_block, rows;  // rows that exist in q, whether or not their frames do
    int window;             // first frame that is looked up among the final rows
    int finals;             // final rows in the window
    int own_begin;          // number of the first own key
    int keys;               // numbers of keys

    // Tile `tile` of a head, of all heads of all items.
    HEADRACE_BOTH Tile(const Plan& plan, int row_of_heads, int tile) {
        const ReachOf<int>& reach = plan.reach;
        item = row_of_heads / plan.heads;
        head = row_of_heads % plan.heads;
        length = plan.length(item);
        first_block = tile / plan.tiles_of_block * plan.blocks_of_tile;
        const int first_row = tile % plan.tiles_of_block * kTileRows;
        first_query = first_block * plan.query_rows + first_row;
        int last_block = first_block;
        if (plan.tiles_of_block > 1) {
            rows = plan.query_rows - first_row < kTileRows ? plan.query_rows - first_row : kTileRows;
        } else {
            const int left = plan.blocks - first_block;
            const int blocks = left < plan.blocks_of_tile ? left : plan.blocks_of_tile;
            rows = blocks * plan.query_rows;
            last_block = first_block + blocks - 1;
        }
        const int last_that_exists = length > 0 ? (length - 1) / reach.hop : 0;
        if (last_block > last_that_exists) last_block = last_that_exists;
        window = reach.first(first_block, first_row);
        int window_end = reach.is_band ? reach.end(last_block, 0, length) : reach.own_begin(last_block);
        if (window_end > length) window_end = length;
        finals = window_end > window ? window_end - window : 0;
        own_begin = (finals + 15) / 16 * 16;
        keys = own_begin + (reach.is_band ? 0 : (last_block - first_block + 1) * reach.rows);
    }

    // Of query row i.
    HEADRACE_BOTH Place query(const Plan& plan, int i) const {
        const int block = plan.block_of_query(first_query + i),
                  row = first_query + i - block * plan.query_rows;
        return Place{block, row, i < rows && plan.reach.frame(block, row) < length};
    }

    // Numbers of the final keys that a query row sees.
    HEADRACE_BOTH Interval finals_of(const Plan& plan, Place query) const {
        const int end = plan.reach.end(query.block, query.row, length),
                  own = plan.reach.own_begin(query.block);
        return Interval{plan.reach.first(query.block, query.row) - window, (end < own ? end : own) - window};
    }

    // Numbers of the own keys that a query row sees.
    HEADRACE_BOTH Interval owns_of(const Plan& plan, Place query) const {
        if (plan.reach.is_band) return Interval{0, 0};
        const int own = plan.reach.own_begin(query.block);
        const int skipped = plan.reach.first(query.block, query.row) - own;
        const int first = own_number(plan, query.block);
        return Interval{first + (skipped > 0 ? skipped : 0),
                        first + plan.reach.end(query.block, query.row, length) - own};
    }

    // Number of the first own key of a block.
    HEADRACE_BOTH int own_number(const Plan& plan, int block) const {
        return own_begin + (block - first_block) * plan.reach.rows;
    }

    // Of the key with a number; no key exists for the numbers of the padding.
    HEADRACE_BOTH Place key(const Plan& plan, int number) const {
        if (number < own_begin) {
            const int block = plan.by_hop.quotient(window + number);
            return Place{block, window + number - block * plan.reach.hop, number < finals};
        }
        const int own = plan.by_rows.quotient(number - own_begin);
        const int block = first_block + own, row = number - own_begin - own * plan.reach.rows;
        return Place{block, row, number < keys && plan.reach.frame(block, row) < length};
    }

    // Place of query row i in [items, heads, blocks, query_rows].
    HEADRACE_BOTH int64_t flat_row(const Plan& plan, int i) const {
        return (static_cast<int64_t>(item) * plan.heads + head) * plan.blocks * plan.query_rows +
               first_query + i;
    }
};

}  // namespace headrace::cuda

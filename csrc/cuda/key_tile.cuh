// SPDX-License-Identifier: Apache-2.0
// What a thread block of backward owns on the side of the keys: up to kTileRows keys of one head, and the
// query rows that see them. A tile holds final rows, in the order of their frames, or provisional ones.
#pragma once

#include "tile.cuh"

namespace headrace::cuda {

struct KeyTile {
    int item, head, length;
    bool is_final;
    int first, total;  // number of key 0 among the head's final (or provisional) rows, and of all of them
    int first_query;   // number in [blocks, query_rows] of the first query row that sees a key
    int queries;       // query rows from there to the last that does

    // Tile `tile` of a head, of all heads of all items.
    HEADRACE_BOTH KeyTile(const Plan& plan, int row_of_heads, int tile) {
        item = row_of_heads / plan.heads;
        head = row_of_heads % plan.heads;
        length = plan.length(item);
        is_final = tile < plan.final_tiles;
        first = (is_final ? tile : tile - plan.final_tiles) * kTileRows;
        total = plan.blocks * (is_final ? plan.reach.hop : plan.provisional);
        const Interval seen_by = queries_of(plan, 0, kTileRows);
        first_query = seen_by.begin;
        queries = seen_by.end - seen_by.begin;
    }

    HEADRACE_BOTH bool stands(int i) const { return first + i < total; }

    // Of key i.
    HEADRACE_BOTH Place key(const Plan& plan, int i) const {
        const Divisor& by = is_final ? plan.by_hop : plan.by_provisional;
        const int block = by.quotient(first + i);
        const int row = by.remainder(first + i) + (is_final ? 0 : plan.reach.hop);
        return Place{block, row, stands(i) && plan.reach.frame(block, row) < length};
    }

    // Query rows of the blocks that see one of the keys [from, until); both ends grow with the keys.
    HEADRACE_BOTH Interval queries_of(const Plan& plan, int from, int until) const {
        while (until > from && !key(plan, until - 1).exists) --until;
        while (from < until && !key(plan, from).exists) ++from;
        if (from >= until) return Interval{0, 0};
        const Place oldest = key(plan, from), newest = key(plan, until - 1);
        return Interval{plan.reach.first_seer(oldest.block, oldest.row) * plan.query_rows,
                        plan.reach.end_seer(newest.block, newest.row, length) * plan.query_rows};
    }
};

}  // namespace headrace::cuda

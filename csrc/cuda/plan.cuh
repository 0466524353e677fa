// SPDX-License-Identifier: Apache-2.0
// The numbers of a call that the kernels count with, worked out once on the host. Frames are counted in 32
// bits, which is checked before; offsets in memory are made of 64.
#pragma once

#include "device.cuh"

namespace headrace::cuda {

constexpr int kTileRows = 64;

// Division by a number that is known before the launch: a product and a shift, exact for 0 <= n < 2^31.
struct Divisor {
    uint32_t divisor, multiplier;
    int shift;

    static Divisor of(int64_t divisor) {
        int shift = 0;
        while ((int64_t{1} << shift) < divisor) ++shift;
        const uint64_t wide = ((uint64_t{1} << 32) * ((uint64_t{1} << shift) - divisor)) / divisor + 1;
        return Divisor{static_cast<uint32_t>(divisor), static_cast<uint32_t>(wide), shift};
    }
    HEADRACE_BOTH int quotient(int n) const {
        const uint32_t x = static_cast<uint32_t>(n);
        const uint32_t high = static_cast<uint32_t>((static_cast<uint64_t>(x) * multiplier) >> 32);
        return static_cast<int>((high + x) >> shift);
    }
    HEADRACE_BOTH int remainder(int n) const { return n - quotient(n) * static_cast<int>(divisor); }
};

struct Plan {
    ReachOf<int> reach;
    int heads, blocks, query_rows, features, frames;
    int provisional;    // rows of a block that are not final
    int lowest_offset;  // of the relative bias
    int64_t num_offsets;
    const int64_t* lengths;
    const float* bias;
    Divisor by_hop, by_rows, by_query_rows, by_provisional;

    int blocks_of_tile;  // whole blocks in a tile of query rows, or 1
    int tiles_of_block;  // tiles that share a block, or 1
    int tiles;           // of query rows, of a head
    int final_tiles;     // of final keys, of a head
    int key_tiles;       // of final and of provisional keys, of a head

    static Plan of(const Attention& of) {
        const auto at_most = [](int64_t x, int64_t most) { return static_cast<int>(x < most ? x : most); };
        const int64_t frames = of.frames();
        Plan plan{};
        plan.reach = ReachOf<int>{
            of.reach.is_band ? at_most(of.reach.look_ahead, frames) : static_cast<int>(of.reach.look_ahead),
            at_most(of.reach.look_back, frames),
            static_cast<int>(of.reach.hop),
            static_cast<int>(of.reach.rows),
            of.reach.is_band,
            of.reach.per_block,
            1};
        plan.heads = static_cast<int>(of.heads);
        plan.blocks = static_cast<int>(of.blocks);
        plan.query_rows = static_cast<int>(of.query_rows);
        plan.features = static_cast<int>(of.features);
        plan.frames = static_cast<int>(frames);
        plan.provisional = plan.reach.rows - plan.reach.hop;
        plan.lowest_offset = static_cast<int>(of.reach.lowest_offset());
        plan.num_offsets = of.reach.num_offsets();
        plan.lengths = of.lengths;
        plan.bias = static_cast<const float*>(of.bias.data);
        plan.by_hop = Divisor::of(plan.reach.hop);
        plan.by_rows = Divisor::of(plan.reach.rows);
        plan.by_query_rows = Divisor::of(plan.query_rows);
        plan.by_provisional = Divisor::of(plan.provisional > 0 ? plan.provisional : 1);

        const auto tiles_for = [](int64_t rows) {
            return static_cast<int>((rows + kTileRows - 1) / kTileRows);
        };
        const bool shares = plan.query_rows > kTileRows;
        plan.blocks_of_tile = shares ? 1 : kTileRows / plan.query_rows;
        plan.tiles_of_block = shares ? tiles_for(plan.query_rows) : 1;
        plan.tiles = shares ? plan.blocks * plan.tiles_of_block
                            : (plan.blocks + plan.blocks_of_tile - 1) / plan.blocks_of_tile;
        plan.final_tiles = tiles_for(frames);
        plan.key_tiles = plan.final_tiles + tiles_for(of.blocks * plan.provisional);
        return plan;
    }

    HEADRACE_BOTH int length(int item) const {
        if (lengths == nullptr) return frames;
        const int64_t given = lengths[item];
        return given < 0 ? 0 : given < frames ? static_cast<int>(given) : frames;
    }
    // Of a head, backward: those of query rows come first.
    HEADRACE_BOTH int backward_tiles() const { return tiles + key_tiles; }
    HEADRACE_BOTH int block_of_query(int flat) const { return by_query_rows.quotient(flat); }
};

// A call and its plan, as a kernel gets them.
template <typename Call>
struct Planned {
    Call call;
    Plan plan;

    explicit Planned(const Call& given) : call(given), plan(Plan::of(given.of)) {}
};

}  // namespace headrace::cuda

// SPDX-License-Identifier: Apache-2.0
// Who may see whom, for the host and the device: the index arithmetic that every kernel shares.
//
// One geometry covers both operations. Rows come in blocks; row r of block b is frame b * hop + r. A row sees
// an interval of frames; a frame before `own_begin(b)` is found in the sequence of final rows (block s / hop,
// row s % hop), a later one among the rows of the row's own block.
//
//   SA     hop 1, one row a block: frame t sees [t - B, t + A], all of them final rows
//   LLSA   hop + A rows a block: frame f of block b sees [f - B, b * hop + hop + A), its own block's rows as
//   known now
//   LLSA   of the first layer, whose input is the same in every channel: a band of frames, each of which sees
//   to the end of the last row that it has: of its group of hop frames, and look_ahead further
//
// Limits are half-open here: [first, end). B = -1 is an unbounded look-back.
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#define HEADRACE_BOTH __host__ __device__ __forceinline__
#else
#define HEADRACE_BOTH __attribute__((always_inline)) inline  // never a symbol of its own: see cpu/vector.h
#endif

namespace headrace {

// Int is int64_t, or int for kernels that count frames in 32 bits.
template <typename Int>
struct ReachOf {
    Int look_ahead;  // A
    Int look_back;   // B, or -1
    Int hop;         // final rows of a block
    Int rows;        // rows of a block: hop + A, or 1 for a band
    bool is_band;    // SA
    bool per_block;  // the look-back counts from the block's first frame
    Int group;       // of a band: frames that see look_ahead frames past the last of them; 1 for SA

    static HEADRACE_BOTH ReachOf band(Int look_ahead, Int look_back, Int group = 1) {
        return ReachOf{look_ahead, look_back, 1, 1, true, false, group};
    }

    static HEADRACE_BOTH ReachOf of_blocks(Int look_ahead, Int look_back, Int hop, bool per_block) {
        return ReachOf{look_ahead, look_back, hop, hop + look_ahead, false, per_block, 1};
    }

    HEADRACE_BOTH Int frame(Int block, Int row) const { return block * hop + row; }

    // First frame that a row sees.
    HEADRACE_BOTH Int first(Int block, Int row) const {
        if (look_back < 0) return 0;
        const Int from = (per_block ? block * hop : frame(block, row)) - look_back;
        return from > 0 ? from : 0;
    }

    // One past the last frame that a row sees, in an item of `length` frames.
    HEADRACE_BOTH Int end(Int block, Int row, Int length) const {
        const Int to = is_band ? end_of_group(block) + look_ahead : block * hop + rows;
        return to < length ? to : length;
    }
    HEADRACE_BOTH Int end_of_group(Int frame) const {
        return group == 1 ? frame + 1 : (frame / group + 1) * group;
    }

    // First frame that is looked up among the block's own rows rather than among the final ones.
    HEADRACE_BOTH Int own_begin(Int block) const {
        constexpr Int never = static_cast<Int>(~uint64_t{0} >> (65 - 8 * sizeof(Int)));
        return is_band ? never : block * hop;
    }

    // Blocks with a row that sees row `row` of `block`, were it not for the staircase of `first`:
    // [first_seer, end_seer).
    HEADRACE_BOTH Int first_seer(Int block, Int row) const {
        if (!is_band) return block;
        const Int from = frame(block, row) - look_ahead;
        return from > 0 ? from : 0;
    }
    HEADRACE_BOTH Int end_seer(Int block, Int row, Int length) const {
        if (row >= hop) return block + 1;  // provisional: its own block alone
        const Int blocks = (length + hop - 1) / hop;
        if (look_back < 0) return blocks;
        const Int to = (frame(block, row) + look_back) / hop + 1;
        return to < blocks ? to : blocks;
    }

    // Key frame minus query frame of the first entry of the relative bias.
    HEADRACE_BOTH Int lowest_offset() const { return -(per_block ? look_back + rows - 1 : look_back); }

    // Entries of the relative bias.
    HEADRACE_BOTH Int num_offsets() const {
        return look_back < 0 ? 0 : (is_band ? farthest_ahead() : rows - 1) - lowest_offset() + 1;
    }

    // Of a band: the last frame that some frame sees, counted from it.
    HEADRACE_BOTH Int farthest_ahead() const { return look_ahead + group - 1; }
};

using Reach = ReachOf<int64_t>;

}  // namespace headrace

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

struct Reach {
    int64_t look_ahead;  // A
    int64_t look_back;   // B, or -1
    int64_t hop;         // final rows of a block
    int64_t rows;        // rows of a block: hop + A, or 1 for a band
    bool is_band;        // SA
    bool per_block;      // the look-back counts from the block's first frame

    static HEADRACE_BOTH Reach band(int64_t look_ahead, int64_t look_back) {
        return Reach{look_ahead, look_back, 1, 1, true, false};
    }

    static HEADRACE_BOTH Reach of_blocks(int64_t look_ahead, int64_t look_back, int64_t hop, bool per_block) {
        return Reach{look_ahead, look_back, hop, hop + look_ahead, false, per_block};
    }

    HEADRACE_BOTH int64_t frame(int64_t block, int64_t row) const { return block * hop + row; }

    // First frame that a row sees.
    HEADRACE_BOTH int64_t first(int64_t block, int64_t row) const {
        if (look_back < 0) return 0;
        const int64_t from = (per_block ? block * hop : frame(block, row)) - look_back;
        return from > 0 ? from : 0;
    }

    // One past the last frame that a row sees, in an item of `length` frames.
    HEADRACE_BOTH int64_t end(int64_t block, int64_t row, int64_t length) const {
        const int64_t to = is_band ? frame(block, row) + look_ahead + 1 : block * hop + rows;
        return to < length ? to : length;
    }

    // First frame that is looked up among the block's own rows rather than among the final ones.
    HEADRACE_BOTH int64_t own_begin(int64_t block) const { return is_band ? INT64_MAX : block * hop; }

    // Key frame minus query frame of the first entry of the relative bias.
    HEADRACE_BOTH int64_t lowest_offset() const { return -(per_block ? look_back + rows - 1 : look_back); }

    // Entries of the relative bias.
    HEADRACE_BOTH int64_t num_offsets() const {
        return look_back < 0 ? 0 : (is_band ? look_ahead : rows - 1) - lowest_offset() + 1;
    }
};

}  // namespace headrace

// SPDX-License-Identifier: Apache-2.0
// y = x W^T + bias for few rows of x, as live running has them: blocks of up to 4 rows by 2 to 4 channels,
// whose sums stay in registers. W is read once, from memory, and that is what the time goes into; a general
// product would first rearrange it. Sums of an element of y have one order, whatever the rows and channels
// beside it.
#pragma once

#include "attention.h"
#include "vector.h"

namespace headrace::HEADRACE_ISA {
namespace {  // one copy for each instruction set: see vector.h

constexpr int kRowsOfBlock = 4;
constexpr int kChannelsOfBlock = HEADRACE_VECTOR_BYTES == 64 ? 4 : 3;
constexpr int kChannelsOfOneRow = 4;
// A channel's weights end too soon for the hardware to see a pattern in what is read.
constexpr int64_t kAheadBytes = 4096;

// All rows of N channels, in pieces of nearly one size.
template <typename Block, int N, typename Call>
void rows_of(const Call& call, int64_t channel) {
    static_assert(kRowsOfBlock == 4, "a case for every number of rows");
    int64_t row = 0;
    for (int64_t pieces = (call.rows + kRowsOfBlock - 1) / kRowsOfBlock; pieces > 0; --pieces) {
        const int64_t piece = (call.rows - row + pieces - 1) / pieces;
        switch (piece) {
            case 4:
                Block::template run<4, N>(call, row, channel);
                break;
            case 3:
                Block::template run<3, N>(call, row, channel);
                break;
            case 2:
                Block::template run<2, N>(call, row, channel);
                break;
            default:
                Block::template run<1, N>(call, row, channel);
        }
        row += piece;
    }
}

// Block::run<M, N>(call, row, channel) for every row and the channels [first, end).
template <typename Block, typename Call>
void channels_of(const Call& call, int64_t first, int64_t end) {
    if (call.rows == 1) {
        for (; first + kChannelsOfOneRow <= end; first += kChannelsOfOneRow)
            Block::template run<1, kChannelsOfOneRow>(call, 0, first);
    }
    for (; first + kChannelsOfBlock <= end; first += kChannelsOfBlock)
        rows_of<Block, kChannelsOfBlock>(call, first);
    for (; first < end; ++first) rows_of<Block, 1>(call, first);
}

// The numbers [k, depth) of a row, zeros behind them.
inline Vec<float> load_until(const float* row, int64_t k, int64_t depth) {
    if (k + kLanes<float> <= depth) return load(row + k);
    Vec<float> v{};
    memcpy(&v, row + k, static_cast<size_t>(depth - k) * sizeof(float));
    return v;
}

struct LinearBlock {
    template <int M, int N>
    static void run(const LinearOfFewRows& call, int64_t row, int64_t channel) {
        constexpr int lanes = kLanes<float>;
        const float* x = call.x + row * call.x_stride;
        const float* weight = call.weight + channel * call.depth;
        Vec<float> sums[M][N];
#pragma GCC unroll 16
        for (int i = 0; i < M * N; ++i) sums[i / N][i % N] = Vec<float>{};
        const int64_t whole = call.depth / lanes * lanes;
        for (int64_t k = 0; k < call.depth; k += lanes) {
            for (int i = 0; i < N * lanes; i += 16)  // numbers of a cache line
                __builtin_prefetch(reinterpret_cast<const char*>(weight + N * k + i) + kAheadBytes);
            Vec<float> weights[N];
#pragma GCC unroll 4
            for (int n = 0; n < N; ++n) {
                const float* channel_weights = weight + n * call.depth;
                weights[n] =
                    k < whole ? load(channel_weights + k) : load_until(channel_weights, k, call.depth);
            }
#pragma GCC unroll 4
            for (int m = 0; m < M; ++m) {
                const float* numbers = x + m * call.x_stride;
                const Vec<float> values = k < whole ? load(numbers + k) : load_until(numbers, k, call.depth);
#pragma GCC unroll 4
                for (int n = 0; n < N; ++n) sums[m][n] += values * weights[n];
            }
        }
#pragma GCC unroll 16
        for (int i = 0; i < M * N; ++i) {
            const int m = i / N, n = i % N;
            const float bias = call.bias == nullptr ? 0 : call.bias[channel + n];
            call.y[(row + m) * call.channels + channel + n] = sum<float>(sums[m][n]) + bias;
        }
    }
};

void few_rows_linear(const LinearOfFewRows& call, int64_t first, int64_t end) {
    channels_of<LinearBlock>(call, first, end);
}

}  // namespace
}  // namespace headrace::HEADRACE_ISA

// SPDX-License-Identifier: Apache-2.0
// The softmax of a row of scores, in one go.
#pragma once

#include "vector.h"

namespace headrace::HEADRACE_ISA {
namespace {  // one copy for each instruction set: see vector.h

// The columns of a row of scores that count: [first, end).
template <typename Real>
struct Seen {
    int64_t first, end;

    // x where its column counts, `otherwise` elsewhere; x holds the columns from c on. Most vectors count as
    // a whole.
    Vec<Real> or_else(int64_t c, Vec<Real> x, Vec<Real> otherwise) const {
        if (c >= first && c + kLanes<Real> <= end) return x;
        const Vec<Real> column = lane_numbers<Real>() + static_cast<Real>(c);
        return (column >= static_cast<Real>(first)) & (column < static_cast<Real>(end)) ? x : otherwise;
    }
};

// Scores -> exp(score - largest) on the columns that are seen, 0 elsewhere; returns their sum and the
// largest.
template <typename Real>
Real exponentials(Seen<Real> seen, int64_t columns, Real* scores, Real* most) {
    const Vec<Real> nothing = splat<Real>(static_cast<Real>(-3e38));
    Vec<Real> top = nothing;
    for (int64_t c = 0; c < columns; c += kLanes<Real>) {
        const Vec<Real> x = seen.or_else(c, load(scores + c), nothing);
        store(scores + c, x);
        top = x > top ? x : top;
    }
    *most = largest<Real>(top);
    Vec<Real> total{};
    for (int64_t c = 0; c < columns; c += kLanes<Real>) {
        const Vec<Real> x = seen.or_else(c, exponential(load(scores + c) - *most), Vec<Real>{});
        store(scores + c, x);
        total += x;
    }
    return sum<Real>(total);
}

// Scores -> the softmax's weights, with the log of its denominator known; 0 on columns that are not seen.
template <typename Real>
void weights_of(Seen<Real> seen, int64_t columns, Real log_sum, Real* scores) {
    for (int64_t c = 0; c < columns; c += kLanes<Real>) {
        store(scores + c, seen.or_else(c, exponential(load(scores + c) - log_sum), Vec<Real>{}));
    }
}

}  // namespace
}  // namespace headrace::HEADRACE_ISA

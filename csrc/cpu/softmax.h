// SPDX-License-Identifier: Apache-2.0
// The softmax of a row of scores, in one go. Scores are to base 2: what is compared, times log2(e).
#pragma once

#include "vector.h"

extern "C" double log2(double);
extern "C" float log2f(float);

namespace headrace::HEADRACE_ISA {
namespace {  // one copy for each instruction set: see vector.h

// The columns of a row of scores that count: [first, end).
template <typename Real>
struct Seen {
    int64_t first, end;

    // Whether all columns of the vector from c on count, as those of most do.
    bool whole(int64_t c) const { return c >= first && c + kLanes<Real> <= end; }

    // x where its column counts, `otherwise` elsewhere; x holds the columns from c on.
    Vec<Real> or_else(int64_t c, Vec<Real> x, Vec<Real> otherwise) const {
        if (whole(c)) return x;
        const Vec<Real> column = lane_numbers<Real>() + static_cast<Real>(c);
        return (column >= static_cast<Real>(first)) & (column < static_cast<Real>(end)) ? x : otherwise;
    }
};

// The log of a denominator, total 2^most, to base 2.
inline double log_of_sum(double most, double total) {
    return most + log2(total);
}
inline float log_of_sum(float most, float total) {
    return most + log2f(total);
}

template <typename Real>
Vec<Real> nothing_seen() {
    return splat<Real>(static_cast<Real>(-3e38));
}

// The columns [first, end) of a row of scores += log2(e) bias.
template <typename Real>
void add_bias(const Real* bias, int64_t first, int64_t end, Real* scores) {
    for (int64_t c = first; c < end; ++c) scores[c] += static_cast<Real>(kLog2E) * bias[c - first];
}

// Scores -> 2^(score - largest) on the columns that are seen, 0 elsewhere; returns their sum and the largest.
template <typename Real>
Real powers(Seen<Real> seen, int64_t columns, Real* scores, Real* most) {
    Vec<Real> top = nothing_seen<Real>();
    for (int64_t c = 0; c < columns; c += kLanes<Real>) {
        Vec<Real> x = load(scores + c);
        if (!seen.whole(c)) {
            x = seen.or_else(c, x, nothing_seen<Real>());
            store(scores + c, x);
        }
        top = x > top ? x : top;
    }
    *most = largest<Real>(top);
    const Vec<Real> most_of_all = splat(*most);
    Vec<Real> total{};
    for (int64_t c = 0; c < columns; c += kLanes<Real>) {
        const Vec<Real> x = power_of_2(load(scores + c) - most_of_all);
        store(scores + c, x);
        total += x;
    }
    return sum<Real>(total);
}

// Scores -> the softmax's weights, with the log of its denominator known, to base 2; 0 on columns that are
// not seen.
template <typename Real>
void weights_of(Seen<Real> seen, int64_t columns, Real log_sum, Real* scores) {
    for (int64_t c = 0; c < columns; c += kLanes<Real>) {
        const Vec<Real> x = seen.or_else(c, load(scores + c), nothing_seen<Real>());
        store(scores + c, power_of_2(x - log_sum));
    }
}

}  // namespace
}  // namespace headrace::HEADRACE_ISA

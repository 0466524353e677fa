// SPDX-License-Identifier: Apache-2.0
// The first layer of LLSA, whose input is the same in every channel: one row of scores a frame, of which each
// of the frame's rows, one a block, takes a prefix.
//
// Rows are numbered by their blocks; scores S and logs L are to base 2 in the code, natural here. The keys of
// a frame's first row are its *base*; each further row sees a few more keys, the frames that lie *ahead*.
// With L_b the log of row b's denominator, and sums over the rows that see key s,
//
//   y_b = exp(L_{b-1} - L_b) y_{b-1} + sum_s exp(S_s - L_b) v_s, over the keys s that b sees first
//   dS_s = exp(S_s - L_j) (G_j . v_s - D_j) and dV_s += exp(S_s - L_j) G_j, with j the first row that sees s
//   G_j = sum_{b >= j} exp(L_j - L_b) dY_b
//   D_j = sum_{b >= j} exp(L_j - L_b) dY_b . y_b
//
// so that forward and backward cost what a band costs, and a few products of one row with one key. y is
// computed again in backward: what forward returned may be rounded to 16 bits. All dS of a frame sum to 0, so
// D of the first row j is sum_s exp(S_s - L_j) G_j . v_s over its keys, plus dS of the keys ahead: of the
// same products as its dS, so that the score of a lone key gets exactly 0.
#pragma once

#include "head.h"

namespace headrace::HEADRACE_ISA {
namespace {  // one copy for each instruction set: see vector.h

template <typename Real>
Real power_of(Real x) {
    return static_cast<Real>(exp2(static_cast<double>(x)));
}

// to += factor from, whole vectors.
template <typename Real>
void add_row(Real factor, const Real* from, Real* to, int64_t padded) {
    for (int64_t d = 0; d < padded; d += kLanes<Real>) store(to + d, load(to + d) + factor * load(from + d));
}

template <typename Real>
void scale_row(Real factor, Real* row, int64_t padded) {
    for (int64_t d = 0; d < padded; d += kLanes<Real>) store(row + d, factor * load(row + d));
}

template <typename Real>
Real dot(const Real* a, const Real* b, int64_t padded) {
    Vec<Real> total{};
    for (int64_t d = 0; d < padded; d += kLanes<Real>) total += load(a + d) * load(b + d);
    return sum<Real>(total);
}

// Where row frame - b * hop of block b stands in log_sums [items, heads, blocks, rows].
int64_t flat_channel_row(const Attention& of, int64_t item, int64_t head, int64_t block, int64_t frame) {
    const ChannelRows& channels = of.channels;
    return ((item * of.heads + head) * channels.blocks + block) * channels.rows + frame -
           block * channels.hop;
}

// Zeros for the rows of frames [first, end), which lie past the length.
template <typename Element>
void clear_channel_rows(const Forward& call, int64_t item, int64_t head, int64_t first, int64_t end) {
    using Real = typename ComputeType<Element>::Type;
    const ChannelRows& channels = call.of.channels;
    for (int64_t frame = first; frame < end; ++frame) {
        for (int64_t b = channels.first_block(frame); b < channels.end_block(frame); ++b) {
            write_zeros(row_of<Element>(call.y, item, head, b, frame - b * channels.hop), call.of.features);
            static_cast<Real*>(call.log_sums)[flat_channel_row(call.of, item, head, b, frame)] = 0;
        }
    }
}

// The keys of a frame's rows, from the unit's first key on: the base is [first, base), the rest lies ahead.
struct Keys {
    int64_t first, base, end;
};

inline Keys keys_of(const Attention& of, const Unit& unit, int64_t i, int64_t length) {
    const int64_t base = of.channels.end(of.channels.first_block(unit.frame + i), length);
    return Keys{first_of(of.reach, unit, i) - unit.first, base - unit.first,
                end_of(of.reach, unit, i, length) - unit.first};
}

// Behind the scores of a unit: softmax, values, and every row of its frames.
template <typename Element, typename Scratch>
void forward_channel_rows(const Forward& call, const Head<Element>& head, int64_t item, int64_t head_number,
                          const Unit& unit, Window window, Scratch& scratch) {
    using Real = typename ComputeType<Element>::Type;
    const Attention& of = call.of;
    const ChannelRows& channels = of.channels;
    const int64_t padded = head.padded(), length = head.length();
    Real most[kForwardUnit], total[kForwardUnit];
    for (int64_t i = 0; i < unit.count; ++i) {
        Real* scores = scratch.scores + i * scratch.stride;
        head.add_bias(unit, i, scores);
        const Keys keys = keys_of(of, unit, i, length);
        memcpy(scratch.ahead + i * channels.rows, scores + keys.base,
               static_cast<size_t>(keys.end - keys.base) * sizeof(Real));
        total[i] = powers(Seen<Real>{keys.first, keys.base}, unit.keys(), scores, &most[i]);
    }
    head.times_rows(unit, scratch.scores, scratch.stride, scratch.values, window, scratch.sums);
    for (int64_t i = 0; i < unit.count; ++i) {
        const int64_t frame = unit.frame + i;
        const Real* ahead = scratch.ahead + i * channels.rows;
        Real* sums = scratch.sums + i * padded;
        int64_t key = channels.end(channels.first_block(frame), length);
        for (int64_t b = channels.first_block(frame); b < channels.end_block(frame); ++b) {
            for (; key < channels.end(b, length); ++key) {
                const Real score = *ahead++;
                if (score > most[i]) {
                    const Real factor = power_of(most[i] - score);
                    scale_row(factor, sums, padded);
                    total[i] *= factor;
                    most[i] = score;
                }
                const Real weight = power_of(score - most[i]);
                add_row(weight, scratch.values.from(key - window.begin).data, sums, padded);
                total[i] += weight;
            }
            write_row(sums, row_of<Element>(call.y, item, head_number, b, frame - b * channels.hop),
                      of.features, 1 / total[i]);
            static_cast<Real*>(call.log_sums)[flat_channel_row(of, item, head_number, b, frame)] =
                log_of_sum(most[i], total[i]);
        }
    }
}

// Backward of one frame, given y of its first row.
template <typename Element>
class ChannelGradient {
  public:
    using Real = typename ComputeType<Element>::Type;

    // row: [padded] and means: [rows of a block] are scratch memory.
    ChannelGradient(const Backward& call, int64_t item, int64_t head, int64_t frame, int64_t length,
                    int64_t padded, Real* row, Real* means)
        : call_(call),
          channels_(call.of.channels),
          item_(item),
          head_(head),
          frame_(frame),
          length_(length),
          padded_(padded),
          first_(channels_.first_block(frame)),
          end_(channels_.end_block(frame)),
          row_(row),
          means_(means) {}

    Real log_sum(int64_t block) const {
        return static_cast<const Real*>(
            call_.log_sums)[flat_channel_row(call_.of, item_, head_, block, frame_)];
    }
    Real first_log_sum() const { return log_sum(first_); }

    // dY_b . y_b of every row but the first; `y` holds the first row's y, and is changed. `scores` are those
    // of the keys ahead.
    void find_means(Real* y, const Real* scores, MatrixB<Real> values) {
        for (int64_t b = first_ + 1; b < end_; ++b) {
            scale_row(power_of(log_sum(b - 1) - log_sum(b)), y, padded_);
            for (int64_t a = ahead(b - 1); a < ahead(b); ++a) {
                add_row(power_of(scores[a] - log_sum(b)), values.from(a).data, y, padded_);
            }
            read_gradient(b);
            means_[b - first_] = dot(row_, y, padded_);
        }
    }

    // G of the first row into `grad`; on the way, from the last row to the first, the scores of the keys
    // ahead become dS, and their dV is added to `value_sums`. Returns the sum of these dS.
    Real gather(Real* scores, MatrixB<Real> values, Real* value_sums, Real* grad) {
        Real mean = 0, total = 0;
        memset(grad, 0, static_cast<size_t>(padded_) * sizeof(Real));
        for (int64_t b = end_ - 1; b >= first_; --b) {
            if (b < end_ - 1) {
                const Real factor = power_of(log_sum(b) - log_sum(b + 1));
                scale_row(factor, grad, padded_);
                mean *= factor;
            }
            read_gradient(b);
            add_row(Real(1), row_, grad, padded_);
            if (b == first_) break;
            mean += means_[b - first_];
            for (int64_t a = ahead(b - 1); a < ahead(b); ++a) {
                const Real weight = power_of(scores[a] - log_sum(b));
                scores[a] = weight * (dot(grad, values.from(a).data, padded_) - mean);
                total += scores[a];
                add_row(weight, grad, value_sums + a * padded_, padded_);
            }
        }
        return total;
    }

  private:
    // Keys ahead that row b sees.
    int64_t ahead(int64_t b) const { return channels_.end(b, length_) - channels_.end(first_, length_); }

    void read_gradient(int64_t b) {
        read_row(row_of<Element>(call_.grad_y, item_, head_, b, frame_ - b * channels_.hop), row_,
                 call_.of.features, padded_, Real(1));
    }

    const Backward& call_;
    const ChannelRows& channels_;
    int64_t item_, head_, frame_, length_, padded_, first_, end_;
    Real *row_, *means_;
};

}  // namespace
}  // namespace headrace::HEADRACE_ISA

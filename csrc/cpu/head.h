// SPDX-License-Identifier: Apache-2.0
// One head of one item: its rows, and the products and softmax of a unit of them.
#pragma once

#include "memory.h"
#include "softmax.h"

extern "C" double sqrt(double);

namespace headrace::HEADRACE_ISA {
namespace {  // one copy for each instruction set: see vector.h

template <typename Element>
class Head {
  public:
    using Real = typename ComputeType<Element>::Type;
    static constexpr int lanes = kLanes<Real>;

    Head(const Attention& of, int64_t item, int64_t head)
        : of_(of),
          reach_(of.reach),
          item_(item),
          head_(head),
          length_(of.length(item)),
          features_(of.features),
          padded_(round_up(of.features, lanes)),
          scale_(static_cast<Real>(1 / sqrt(static_cast<double>(of.features)))) {
        if (of.bias != nullptr) bias_ = static_cast<const Real*>(of.bias) + head * reach_.num_offsets();
    }

    int64_t length() const { return length_; }
    int64_t padded() const { return padded_; }
    Real scale() const { return scale_; }
    // Of queries, so that scores are to base 2.
    Real score_scale() const { return static_cast<Real>(kLog2E / sqrt(static_cast<double>(features_))); }

    // Rows of frames [window) among the final rows.
    void pack_final(const View<const void>& view, Window window, Packed<Real>& to) const {
        if (reach_.hop == 1 && read_in_place(row_at(view, window.begin, 0), view.strides.block, &to.rows))
            return;
        for (int64_t s = window.begin; s < window.end; ++s) {
            copy_row(row_at(view, s / reach_.hop, s % reach_.hop), to.copy, s - window.begin, Real(1));
        }
    }

    // The rows of a block that exist; returns how many.
    int64_t pack_own(const View<const void>& view, int64_t block, Packed<Real>& to) const {
        const int64_t count = minimum(reach_.rows, length_ - reach_.frame(block, 0));
        if (read_in_place(row_at(view, block, 0), view.strides.row, &to.rows)) return count;
        for (int64_t r = 0; r < count; ++r) copy_row(row_at(view, block, r), to.copy, r, Real(1));
        return count;
    }

    void transpose_packed(Packed<Real>& packed, int64_t count) const {
        transpose_rows<Real>(packed.rows, count, padded_, packed.columns, packed.stride);
    }

    // The rows of a unit times a factor, in `copy`.
    MatrixB<Real> pack_unit(const View<const void>& view, const Unit& unit, Real* copy, Real factor) const {
        for (int64_t i = 0; i < unit.count; ++i) {
            copy_row(unit_row<const Element>(view, unit, i), copy, i, factor);
        }
        return {copy, padded_};
    }

    // The rows of a unit as they are, in `copy` where they cannot be read in place.
    MatrixB<Real> pack_unit(const View<const void>& view, const Unit& unit, Real* copy) const {
        const int64_t stride = reach_.is_band ? view.strides.block : view.strides.row;
        MatrixB<Real> rows;
        if (read_in_place(unit_row<const Element>(view, unit, 0), stride, &rows)) return rows;
        return pack_unit(view, unit, copy, Real(1));
    }

    template <typename Data, typename AnyView>
    Data* unit_row(const AnyView& view, const Unit& unit, int64_t i) const {
        return reach_.is_band ? row_of<Element>(view, item_, head_, unit.block + i, 0)
                              : row_of<Element>(view, item_, head_, unit.block, unit.row + i);
    }

    // Where row i of a unit stands in a contiguous [items, heads, blocks, query_rows].
    int64_t flat_row(const Unit& unit, int64_t i) const {
        return ((item_ * of_.heads + head_) * of_.blocks + unit.block) * of_.query_rows + unit.row + i;
    }

    // products[i, s - unit.first] = a[i] . (final or own row of frame s), for the rows and keys of a unit.
    void times_keys(const Unit& unit, MatrixB<Real> a, const Packed<Real>& finals, Window window,
                    const Packed<Real>& own, Real* products, int64_t stride) const {
        const MatrixA<Real> left{a.data, a.row_stride, 1};
        if (unit.final_keys() > 0) {
            product<Real>(left, {finals.columns + (unit.first - window.begin), finals.stride},
                          {products, stride}, unit.count, unit.final_keys(), features_);
        }
        if (unit.own_keys() > 0) {
            product<Real>(left, {own.columns + own_offset(unit), own.stride},
                          {products + unit.final_keys(), stride}, unit.count, unit.own_keys(), features_);
        }
    }

    // sums[i] = sum_s weights[i, s - unit.first] (final or own row of frame s).
    void times_rows(const Unit& unit, const Real* weights, int64_t stride, const Packed<Real>& finals,
                    Window window, const Packed<Real>& own, Real* sums) const {
        product<Real>({weights, stride, 1}, finals.rows.from(unit.first - window.begin), {sums, padded_},
                      unit.count, padded_, maximum(0, unit.final_keys()));
        if (unit.own_keys() > 0) {
            add_product<Real>({weights + unit.final_keys(), stride, 1}, own.rows.from(own_offset(unit)),
                              {sums, padded_}, unit.count, padded_, unit.own_keys());
        }
    }

    // Row of the own block that holds a unit's first own key.
    int64_t own_offset(const Unit& unit) const { return unit.own - reach_.frame(unit.block, 0); }

    void add_bias(const Unit& unit, int64_t i, Real* scores) const {
        if (bias_ == nullptr) return;
        const int64_t first = first_of(reach_, unit, i), end = end_of(reach_, unit, i, length_);
        const Real* bias = bias_ - (unit.frame + i) - reach_.lowest_offset();
        for (int64_t s = first; s < end; ++s) scores[s - unit.first] += static_cast<Real>(kLog2E) * bias[s];
    }

    // Scores of row i -> powers, see softmax.h.
    Real powers(const Unit& unit, int64_t i, Real* scores, Real* most) const {
        add_bias(unit, i, scores);
        return HEADRACE_ISA::powers(seen_by(unit, i), unit.keys(), scores, most);
    }

    // Scores of row i -> the softmax's weights, with the log of its denominator known.
    void weights(const Unit& unit, int64_t i, Real log_sum, Real* scores) const {
        add_bias(unit, i, scores);
        weights_of(seen_by(unit, i), unit.keys(), log_sum, scores);
    }

  private:
    const Element* row_at(const View<const void>& view, int64_t block, int64_t row) const {
        return row_of<Element>(view, item_, head_, block, row);
    }

    void copy_row(const Element* from, Real* to, int64_t i, Real factor) const {
        read_row(from, to + i * padded_, features_, padded_, factor);
    }

    // Rows that are held in the compute type and fill whole vectors need no copy.
    bool read_in_place(const Real* from, int64_t stride, MatrixB<Real>* rows) const {
        *rows = {from, stride};
        return padded_ == features_;
    }
    template <typename Other>
    bool read_in_place(const Other*, int64_t, MatrixB<Real>*) const {
        return false;
    }

    Seen<Real> seen_by(const Unit& unit, int64_t i) const {
        return {first_of(reach_, unit, i) - unit.first, end_of(reach_, unit, i, length_) - unit.first};
    }

    const Attention& of_;
    const Reach& reach_;
    int64_t item_, head_, length_, features_, padded_;
    Real scale_;
    const Real* bias_ = nullptr;
};

}  // namespace
}  // namespace headrace::HEADRACE_ISA

// SPDX-License-Identifier: Apache-2.0
// One head of one item: its rows, and the products and softmax of a unit of them.
#pragma once

#include "memory.h"
#include "softmax.h"

extern "C" double sqrt(double);

namespace headrace::HEADRACE_ISA {
namespace {  // one copy for each instruction set: see vector.h

// What is kept of packed rows.
enum class Form { kRows, kColumns, kBoth };

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
          scale_(static_cast<Real>(1 / sqrt(static_cast<double>(of.features)))) {}

    int64_t length() const { return length_; }
    int64_t padded() const { return padded_; }
    Real scale() const { return scale_; }
    // Of queries, so that scores are to base 2.
    Real score_scale() const { return static_cast<Real>(kLog2E / sqrt(static_cast<double>(features_))); }

    // The final rows that the first block of a tile finds in its window: of all its frames (a band), or of
    // those before the block.
    void pack_window(const View<const void>& view, Window window, int64_t first_block, Form form,
                     Packed<Real>& to) const {
        const int64_t end = reach_.is_band ? window.end : minimum(reach_.frame(first_block, 0), window.end);
        if (reach_.hop == 1) {
            return pack(row_at(view, window.begin, 0), view.strides.block, end - window.begin, 0, form, to);
        }
        for (int64_t s = window.begin; s < end; ++s) {
            copy_row(row_at(view, s / reach_.hop, s % reach_.hop), to.rows, s - window.begin, Real(1));
        }
        if (form != Form::kRows) transpose(to.from(0), end - window.begin, 0, to);
    }

    // The rows of a block that exist, final and provisional.
    void pack_block(const View<const void>& view, Window window, int64_t block, Form form,
                    Packed<Real>& to) const {
        const int64_t frame = reach_.frame(block, 0);
        pack(row_at(view, block, 0), view.strides.row, minimum(reach_.rows, length_ - frame),
             frame - window.begin, form, to);
    }

    int64_t provisional_count(int64_t block) const {
        return maximum(0, minimum(provisional_rows(reach_), length_ - (block + 1) * reach_.hop));
    }

    // Rows of a block that are about to be read, into the caches: hardware does not foresee them.
    template <typename Any>
    void prefetch(const View<Any>& view, int64_t block, int64_t rows) const {
        if (block >= of_.blocks) return;
        for (int64_t r = 0; r < rows; ++r) {
            const char* row = reinterpret_cast<const char*>(row_of<Element>(view, item_, head_, block, r));
            for (int64_t at = 0; at < features_ * static_cast<int64_t>(sizeof(Element)); at += 64)
                __builtin_prefetch(row + at);
        }
    }

    // The rows of a unit times a factor, in `copy`.
    MatrixB<Real> pack_unit(const View<const void>& view, const Unit& unit, Real* copy, Real factor) const {
        for (int64_t i = 0; i < unit.count; ++i) copy_row(unit_row<Element>(view, unit, i), copy, i, factor);
        return {copy, padded_};
    }

    // The rows of a unit as they are, in `copy` where they cannot be read in place.
    MatrixB<Real> pack_unit(const View<const void>& view, const Unit& unit, Real* copy) const {
        const int64_t stride = reach_.is_band ? view.strides.block : view.strides.row;
        MatrixB<Real> rows;
        if (read_in_place(unit_row<Element>(view, unit, 0), stride, &rows)) return rows;
        return pack_unit(view, unit, copy, Real(1));
    }

    // Row i of a unit in a tensor of Data.
    template <typename Data, typename AnyView>
    auto unit_row(const AnyView& view, const Unit& unit, int64_t i) const {
        return reach_.is_band ? row_of<Data>(view, item_, head_, unit.block + i, 0)
                              : row_of<Data>(view, item_, head_, unit.block, unit.row + i);
    }

    // Where row i of a unit stands in a contiguous [items, heads, blocks, query_rows].
    int64_t flat_row(const Unit& unit, int64_t i) const {
        return ((item_ * of_.heads + head_) * of_.blocks + unit.block) * of_.query_rows + unit.row + i;
    }

    // products[i, s - unit.first] = a[i] . (row of frame s), for the rows and keys of a unit.
    void times_keys(const Unit& unit, MatrixB<Real> a, const Packed<Real>& keys, Window window,
                    Real* products, int64_t stride) const {
        product<Real>({a.data, a.row_stride, 1}, {keys.columns + (unit.first - window.begin), keys.stride},
                      {products, stride}, unit.count, unit.keys(), features_);
    }

    // sums[i] = sum_s weights[i, s - unit.first] (row of frame s).
    void times_rows(const Unit& unit, const Real* weights, int64_t stride, const Packed<Real>& keys,
                    Window window, Real* sums) const {
        product<Real>({weights, stride, 1}, keys.from(unit.first - window.begin), {sums, padded_}, unit.count,
                      padded_, unit.keys());
    }

    void add_bias(const Unit& unit, int64_t i, Real* scores) const {
        if (of_.bias.data == nullptr) return;
        const Seen<Real> seen = seen_by(unit, i);
        HEADRACE_ISA::add_bias(unit_row<Real>(of_.bias, unit, i) + first_offset(unit, i), seen.first,
                               seen.end, scores);
    }

    // The columns of a unit that its row i sees.
    Seen<Real> seen_by(const Unit& unit, int64_t i) const {
        return {first_of(reach_, unit, i) - unit.first, end_of(reach_, unit, i, length_) - unit.first};
    }

    // The entry of the relative bias that goes to the first frame which row i of a unit sees.
    int64_t first_offset(const Unit& unit, int64_t i) const {
        return first_of(reach_, unit, i) - (unit.frame + i) - reach_.lowest_offset();
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

    // `count` rows, `stride` apart, as rows `at`, at + 1, ... of `to`.
    void pack(const Element* from, int64_t stride, int64_t count, int64_t at, Form form,
              Packed<Real>& to) const {
        MatrixB<Real> rows;
        if (form != Form::kColumns || !read_in_place(from, stride, &rows)) {
            for (int64_t i = 0; i < count; ++i) copy_row(from + i * stride, to.rows, at + i, Real(1));
            rows = to.from(at);
        }
        if (form != Form::kRows) transpose(rows, count, at, to);
    }

    void transpose(MatrixB<Real> rows, int64_t count, int64_t at, Packed<Real>& to) const {
        transpose_rows<Real>(rows, count, padded_, to.columns + at, to.stride);
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

    const Attention& of_;
    const Reach& reach_;
    int64_t item_, head_, length_, features_, padded_;
    Real scale_;
};

}  // namespace
}  // namespace headrace::HEADRACE_ISA

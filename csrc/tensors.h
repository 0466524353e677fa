// SPDX-License-Identifier: Apache-2.0
// From torch's stable tensors to the plain data that kernels take.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <optional>

#include "cpu/attention.h"

namespace headrace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;

// Features side by side, as the kernels read them.
inline Tensor with_unit_stride(const Tensor& x) {
    return x.stride(x.dim() - 1) == 1 || x.size(x.dim() - 1) == 1 ? x : torch::stable::contiguous(x);
}

inline OptionalTensor with_unit_stride(const OptionalTensor& x) {
    return x.has_value() ? OptionalTensor(with_unit_stride(*x)) : x;
}

inline Element element_of(const Tensor& x) {
    switch (x.scalar_type()) {
        case ScalarType::Float:
            return Element::kFloat32;
        case ScalarType::Double:
            return Element::kFloat64;
        case ScalarType::Half:
            return Element::kFloat16;
        case ScalarType::BFloat16:
            return Element::kBFloat16;
        default:
            STD_TORCH_CHECK(false, "headrace: expected fp32, fp64, fp16 or bf16 tensors.");
            return Element::kFloat32;
    }
}

// The type that sums, softmax and relative bias are held in.
inline ScalarType compute_type(const Tensor& x) {
    return x.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

// [N, H, T, D], or [N, H, P, rows, D].
inline Strides strides_of(const Tensor& x) {
    return Strides{x.stride(0), x.stride(1), x.stride(2), x.dim() == 5 ? x.stride(3) : 0};
}

inline View<const void> reading(const Tensor& x) {
    return {x.const_data_ptr(), strides_of(x)};
}
inline View<void> writing(const Tensor& x) {
    return {x.mutable_data_ptr(), strides_of(x)};
}

// A bias for each query has the axes of q before its offsets; one that queries share is [heads, offsets].
inline bool is_of_queries(const OptionalTensor& bias) {
    return bias.has_value() && bias->dim() == 5;
}

inline View<const void> bias_of(const OptionalTensor& bias) {
    if (!bias.has_value()) return {};
    return is_of_queries(bias) ? reading(*bias)
                               : View<const void>{bias->const_data_ptr(), {0, bias->stride(0), 0, 0}};
}

inline Attention attention_of(const Tensor& q, const Tensor& k, const Tensor& v,
                              const OptionalTensor& lengths, const OptionalTensor& bias, const Reach& reach) {
    Attention of{};
    of.items = q.size(0);
    of.heads = q.size(1);
    of.blocks = q.size(2);
    of.query_rows = q.dim() == 5 ? q.size(3) : 1;
    of.features = q.size(q.dim() - 1);
    of.reach = reach;
    of.element = element_of(q);
    of.lengths = lengths.has_value() ? static_cast<const int64_t*>(lengths->const_data_ptr()) : nullptr;
    of.bias = bias_of(bias);
    of.q = reading(q);
    of.k = reading(k);
    of.v = reading(v);
    return of;
}

// The first layer of LLSA: q, k and v [N, H, T, D], y and its gradient [N, H, P, hop + look_ahead, D].
inline Attention attention_of_frames(const Tensor& q, const Tensor& k, const Tensor& v,
                                     const OptionalTensor& lengths, const OptionalTensor& bias,
                                     int64_t look_ahead, int64_t look_back, int64_t hop) {
    Attention of = attention_of(q, k, v, lengths, bias, Reach::band(look_ahead, look_back, hop));
    of.channels = ChannelRows{(q.size(2) + hop - 1) / hop, hop, hop + look_ahead};
    return of;
}

inline Step step_of(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& y,
                    const Tensor& key_ring, const Tensor& value_ring, const Tensor& positions,
                    const Tensor& slots, const OptionalTensor& lengths, const OptionalTensor& bias,
                    const Reach& reach) {
    const auto rows_of = [](const Tensor& x) { return Strides{x.stride(0), x.stride(1), 0, x.stride(2)}; };
    View<const void> row_bias{};
    if (bias.has_value()) row_bias = {bias->const_data_ptr(), rows_of(*bias)};
    return Step{q.size(0),
                q.size(1),
                q.size(2),
                k.size(2),
                q.size(3),
                reach,
                element_of(q),
                lengths.has_value() ? static_cast<const int64_t*>(lengths->const_data_ptr()) : nullptr,
                {q.const_data_ptr(), rows_of(q)},
                {k.const_data_ptr(), rows_of(k)},
                {v.const_data_ptr(), rows_of(v)},
                {y.mutable_data_ptr(), rows_of(y)},
                key_ring.mutable_data_ptr(),
                value_ring.mutable_data_ptr(),
                key_ring.size(2),
                static_cast<const int64_t*>(positions.const_data_ptr()),
                static_cast<const int64_t*>(slots.const_data_ptr()),
                row_bias};
}

// [N, H, P, rows of q] (a band: [N, H, T]).
inline Tensor empty_log_sums(const Tensor& q) {
    const auto sizes = q.sizes();
    return torch::stable::new_empty(q, {sizes.begin(), sizes.size() - 1}, compute_type(q));
}

}  // namespace headrace

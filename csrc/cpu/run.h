// SPDX-License-Identifier: Apache-2.0
// Forward and backward of either operation on the CPU, on torch's own threads.
#pragma once

#include <tuple>

#include "../tensors.h"

namespace headrace {

struct Cpu {
    static std::tuple<Tensor, Tensor> forward(const Tensor& q, const Tensor& k, const Tensor& v,
                                              const OptionalTensor& lengths, const OptionalTensor& bias,
                                              const Reach& reach);

    // Backward needs no y; it is there for the GPU's.
    //
    // LLSA's first layer: q, k and v [N, H, T, D], y [N, H, P, hop + look_ahead, D].
    static std::tuple<Tensor, Tensor> first_layer(const Tensor& q, const Tensor& k, const Tensor& v,
                                                  const OptionalTensor& lengths, const OptionalTensor& bias,
                                                  int64_t look_ahead, int64_t look_back, int64_t hop);
    static std::tuple<Tensor, Tensor, Tensor, Tensor> first_layer_backward(
        const Tensor& grad_y, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& y,
        const Tensor& log_sums, const OptionalTensor& lengths, const OptionalTensor& bias, int64_t look_ahead,
        int64_t look_back, int64_t hop);

    static std::tuple<Tensor, Tensor, Tensor, Tensor> backward(const Tensor& grad_y, const Tensor& q,
                                                               const Tensor& k, const Tensor& v,
                                                               const Tensor& y, const Tensor& log_sums,
                                                               const OptionalTensor& lengths,
                                                               const OptionalTensor& bias,
                                                               const Reach& reach);

    // x [rows, depth], weight [channels, depth], bias [channels], fp32 -> [rows, channels].
    static Tensor few_rows_linear(const Tensor& x, const Tensor& weight, const OptionalTensor& bias);

    // x [rows, depth] fp32, weight [channels, padded depth] int8, scales [channels], bias [channels] ->
    // [rows, channels].
    static Tensor int8_linear(const Tensor& x, const Tensor& weight, const Tensor& scales,
                              const OptionalTensor& bias);

    // Changes rings and positions in place.
    static Tensor step(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& key_ring,
                       const Tensor& value_ring, const Tensor& positions, const Tensor& slots,
                       const OptionalTensor& lengths, const OptionalTensor& bias, const Reach& reach);
};

}  // namespace headrace

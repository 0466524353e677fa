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

    // y is not needed here.
    static std::tuple<Tensor, Tensor, Tensor, Tensor> backward(const Tensor& grad_y, const Tensor& q,
                                                               const Tensor& k, const Tensor& v,
                                                               const Tensor& y, const Tensor& log_sums,
                                                               const OptionalTensor& lengths,
                                                               const OptionalTensor& bias,
                                                               const Reach& reach);

    // Changes rings and positions in place.
    static Tensor step(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& key_ring,
                       const Tensor& value_ring, const Tensor& positions, const Tensor& slots,
                       const OptionalTensor& lengths, const Reach& reach);
};

}  // namespace headrace

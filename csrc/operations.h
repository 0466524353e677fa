// SPDX-License-Identifier: Apache-2.0
// The operations as torch calls them, for any device that has forward, backward and step. Checked arguments
// only: headrace/ops/ checks them, for every backend alike. look_back = -1 is unbounded.
#pragma once

#include <tuple>

#include "tensors.h"

namespace headrace {

// bias is of the compute type: [H, offsets], for llsa also [N, H, P, rows of q, offsets]; of llsa_step [N, H,
// rows of q, offsets].
//
// log_sums [N, H, T] or [N, H, P, rows of q] is the log of the softmax's denominator, fp32 (fp64 for fp64).
using WithLogSums = std::tuple<Tensor, Tensor>;
using Gradients = std::tuple<Tensor, Tensor, Tensor, Tensor>;  // of q, k, v and bias

template <typename Device>
WithLogSums sa(const Tensor& q, const Tensor& k, const Tensor& v, const OptionalTensor& lengths,
               const OptionalTensor& bias, int64_t look_ahead, int64_t look_back) {
    return Device::forward(q, k, v, lengths, bias, Reach::band(look_ahead, look_back));
}

template <typename Device>
Gradients sa_backward(const Tensor& grad_y, const Tensor& q, const Tensor& k, const Tensor& v,
                      const Tensor& y, const Tensor& log_sums, const OptionalTensor& lengths,
                      const OptionalTensor& bias, int64_t look_ahead, int64_t look_back) {
    return Device::backward(grad_y, q, k, v, y, log_sums, lengths, bias, Reach::band(look_ahead, look_back));
}

template <typename Device>
Tensor sa_step(const Tensor& q, const Tensor& k, const Tensor& v, Tensor key_ring, Tensor value_ring,
               Tensor positions, const Tensor& slots, const OptionalTensor& lengths, int64_t look_ahead,
               int64_t look_back) {
    return Device::step(q, k, v, key_ring, value_ring, positions, slots, lengths, OptionalTensor{},
                        Reach::band(look_ahead, look_back));
}

template <typename Device>
WithLogSums llsa(const Tensor& q, const Tensor& k, const Tensor& v, const OptionalTensor& lengths,
                 const OptionalTensor& bias, int64_t look_ahead, int64_t look_back, int64_t hop,
                 bool per_block) {
    return Device::forward(q, k, v, lengths, bias, Reach::of_blocks(look_ahead, look_back, hop, per_block));
}

template <typename Device>
Gradients llsa_backward(const Tensor& grad_y, const Tensor& q, const Tensor& k, const Tensor& v,
                        const Tensor& y, const Tensor& log_sums, const OptionalTensor& lengths,
                        const OptionalTensor& bias, int64_t look_ahead, int64_t look_back, int64_t hop,
                        bool per_block) {
    return Device::backward(grad_y, q, k, v, y, log_sums, lengths, bias,
                            Reach::of_blocks(look_ahead, look_back, hop, per_block));
}

template <typename Device>
Tensor llsa_step(const Tensor& q, const Tensor& k, const Tensor& v, Tensor key_ring, Tensor value_ring,
                 Tensor positions, const Tensor& slots, const OptionalTensor& lengths,
                 const OptionalTensor& bias, int64_t look_ahead, int64_t look_back, int64_t hop,
                 bool per_block) {
    return Device::step(q, k, v, key_ring, value_ring, positions, slots, lengths, bias,
                        Reach::of_blocks(look_ahead, look_back, hop, per_block));
}

// Give the operations of a device to torch; `m` is what STABLE_TORCH_LIBRARY_IMPL names.
#define HEADRACE_IMPLEMENT(m, Device)                           \
    m.impl("sa", TORCH_BOX(&sa<Device>));                       \
    m.impl("sa_backward", TORCH_BOX(&sa_backward<Device>));     \
    m.impl("sa_step", TORCH_BOX(&sa_step<Device>));             \
    m.impl("llsa", TORCH_BOX(&llsa<Device>));                   \
    m.impl("llsa_backward", TORCH_BOX(&llsa_backward<Device>)); \
    m.impl("llsa_step", TORCH_BOX(&llsa_step<Device>))

}  // namespace headrace

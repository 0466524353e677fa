// SPDX-License-Identifier: Apache-2.0
// headrace::llsa, low-latency streaming attention in anchor-major layout: schemas, and the CPU kernels behind
// them. Checked arguments only: headrace/ops/llsa.py checks them, for every backend alike. look_back = -1 is
// unbounded. log_sums [N, H, P, hop+A] is the log of the softmax's denominator, fp32 (fp64 for fp64), which
// backward needs.
#include "cpu/run.h"

namespace headrace {
namespace {

std::tuple<Tensor, Tensor> llsa(const Tensor& q, const Tensor& k, const Tensor& v,
                                const OptionalTensor& lengths, const OptionalTensor& bias, int64_t look_ahead,
                                int64_t look_back, int64_t hop, bool per_block) {
    return cpu::forward(q, k, v, lengths, bias, Reach::of_blocks(look_ahead, look_back, hop, per_block));
}

std::tuple<Tensor, Tensor, Tensor, Tensor> llsa_backward(const Tensor& grad_y, const Tensor& q,
                                                         const Tensor& k, const Tensor& v,
                                                         const Tensor& log_sums,
                                                         const OptionalTensor& lengths,
                                                         const OptionalTensor& bias, int64_t look_ahead,
                                                         int64_t look_back, int64_t hop, bool per_block) {
    return cpu::backward(grad_y, q, k, v, log_sums, lengths, bias,
                         Reach::of_blocks(look_ahead, look_back, hop, per_block));
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(headrace, m) {
    m.def(
        "llsa(Tensor q, Tensor k, Tensor v, Tensor? lengths, Tensor? bias, int look_ahead, int look_back, "
        "int hop, "
        "bool per_block) -> (Tensor y, Tensor log_sums)");
    m.def(
        "llsa_backward(Tensor grad_y, Tensor q, Tensor k, Tensor v, Tensor log_sums, Tensor? lengths, "
        "Tensor? bias, "
        "int look_ahead, int look_back, int hop, bool per_block) "
        "-> (Tensor grad_q, Tensor grad_k, Tensor grad_v, Tensor grad_bias)");
}

STABLE_TORCH_LIBRARY_IMPL(headrace, CPU, m) {
    m.impl("llsa", TORCH_BOX(&llsa));
    m.impl("llsa_backward", TORCH_BOX(&llsa_backward));
}

}  // namespace headrace

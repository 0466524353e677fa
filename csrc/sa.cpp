// SPDX-License-Identifier: Apache-2.0
// headrace::sa, streaming attention: schemas, and the CPU kernels behind them. Checked arguments only:
// headrace/ops/sa.py checks them, for every backend alike. look_back = -1 is unbounded. log_sums [N, H, T] is
// the log of the softmax's denominator, fp32 (fp64 for fp64), which backward needs.
#include "cpu/run.h"

namespace headrace {
namespace {

std::tuple<Tensor, Tensor> sa(const Tensor& q, const Tensor& k, const Tensor& v,
                              const OptionalTensor& lengths, const OptionalTensor& bias, int64_t look_ahead,
                              int64_t look_back) {
    return cpu::forward(q, k, v, lengths, bias, Reach::band(look_ahead, look_back));
}

std::tuple<Tensor, Tensor, Tensor, Tensor> sa_backward(const Tensor& grad_y, const Tensor& q, const Tensor& k,
                                                       const Tensor& v, const Tensor& log_sums,
                                                       const OptionalTensor& lengths,
                                                       const OptionalTensor& bias, int64_t look_ahead,
                                                       int64_t look_back) {
    return cpu::backward(grad_y, q, k, v, log_sums, lengths, bias, Reach::band(look_ahead, look_back));
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(headrace, m) {
    m.def(
        "sa(Tensor q, Tensor k, Tensor v, Tensor? lengths, Tensor? bias, int look_ahead, int look_back) "
        "-> (Tensor y, Tensor log_sums)");
    m.def(
        "sa_backward(Tensor grad_y, Tensor q, Tensor k, Tensor v, Tensor log_sums, Tensor? lengths, Tensor? "
        "bias, "
        "int look_ahead, int look_back) -> (Tensor grad_q, Tensor grad_k, Tensor grad_v, Tensor grad_bias)");
}

STABLE_TORCH_LIBRARY_IMPL(headrace, CPU, m) {
    m.impl("sa", TORCH_BOX(&sa));
    m.impl("sa_backward", TORCH_BOX(&sa_backward));
}

}  // namespace headrace

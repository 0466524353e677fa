// SPDX-License-Identifier: Apache-2.0
// Schemas of the operations, and the CPU's. Rings and positions of a step are changed in place.
#include "operations.h"

#include "cpu/run.h"

namespace headrace {

STABLE_TORCH_LIBRARY_FRAGMENT(headrace, m) {
    m.def(
        "sa(Tensor q, Tensor k, Tensor v, Tensor? lengths, Tensor? bias, int look_ahead, int look_back) "
        "-> (Tensor y, Tensor log_sums)");
    m.def(
        "sa_backward(Tensor grad_y, Tensor q, Tensor k, Tensor v, Tensor y, Tensor log_sums, Tensor? "
        "lengths, "
        "Tensor? bias, int look_ahead, int look_back) "
        "-> (Tensor grad_q, Tensor grad_k, Tensor grad_v, Tensor grad_bias)");
    m.def(
        "sa_step(Tensor q, Tensor k, Tensor v, Tensor(a!) key_ring, Tensor(b!) value_ring, "
        "Tensor(c!) positions, Tensor slots, Tensor? lengths, int look_ahead, int look_back) -> Tensor");
    m.def(
        "llsa(Tensor q, Tensor k, Tensor v, Tensor? lengths, Tensor? bias, int look_ahead, int look_back, "
        "int hop, bool per_block) -> (Tensor y, Tensor log_sums)");
    m.def(
        "llsa_backward(Tensor grad_y, Tensor q, Tensor k, Tensor v, Tensor y, Tensor log_sums, "
        "Tensor? lengths, Tensor? bias, int look_ahead, int look_back, int hop, bool per_block) "
        "-> (Tensor grad_q, Tensor grad_k, Tensor grad_v, Tensor grad_bias)");
    // q, k and v [N, H, T, D]: the CPU's alone, since GPUs read them laid out as a view just as fast
    m.def(
        "llsa_first_layer(Tensor q, Tensor k, Tensor v, Tensor? lengths, Tensor? bias, int look_ahead, "
        "int look_back, int hop) -> (Tensor y, Tensor log_sums)");
    m.def(
        "llsa_first_layer_backward(Tensor grad_y, Tensor q, Tensor k, Tensor v, Tensor y, Tensor log_sums, "
        "Tensor? lengths, Tensor? bias, int look_ahead, int look_back, int hop) "
        "-> (Tensor grad_q, Tensor grad_k, Tensor grad_v, Tensor grad_bias)");
    m.def("few_rows_linear(Tensor x, Tensor weight, Tensor? bias) -> Tensor");
    m.def("int8_linear(Tensor x, Tensor weight, Tensor scales, Tensor? bias) -> Tensor");
    m.def(
        "llsa_step(Tensor q, Tensor k, Tensor v, Tensor(a!) key_ring, Tensor(b!) value_ring, "
        "Tensor(c!) positions, Tensor slots, Tensor? lengths, Tensor? bias, int look_ahead, int look_back, "
        "int hop, bool per_block) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(headrace, CPU, m) {
    HEADRACE_IMPLEMENT(m, Cpu);
    m.impl("few_rows_linear", TORCH_BOX(&Cpu::few_rows_linear));
    m.impl("int8_linear", TORCH_BOX(&Cpu::int8_linear));
    m.impl("llsa_first_layer", TORCH_BOX(&Cpu::first_layer));
    m.impl("llsa_first_layer_backward", TORCH_BOX(&Cpu::first_layer_backward));
}

}  // namespace headrace

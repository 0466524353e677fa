// SPDX-License-Identifier: Apache-2.0
// headrace::sa_step and headrace::llsa_step, one tick of live running: schemas, and the CPU kernels behind
// them. Checked arguments only: headrace/ops/step.py checks them, for every backend alike. Rings and
// positions are changed in place.
#include "cpu/run.h"

namespace headrace {
namespace {

Tensor sa_step(const Tensor& q, const Tensor& k, const Tensor& v, Tensor key_ring, Tensor value_ring,
               Tensor positions, const Tensor& slots, const OptionalTensor& lengths, int64_t look_ahead,
               int64_t look_back) {
    return cpu::step(q, k, v, key_ring, value_ring, positions, slots, lengths,
                     Reach::band(look_ahead, look_back));
}

Tensor llsa_step(const Tensor& q, const Tensor& k, const Tensor& v, Tensor key_ring, Tensor value_ring,
                 Tensor positions, const Tensor& slots, const OptionalTensor& lengths, int64_t look_ahead,
                 int64_t look_back, int64_t hop, bool per_block) {
    return cpu::step(q, k, v, key_ring, value_ring, positions, slots, lengths,
                     Reach::of_blocks(look_ahead, look_back, hop, per_block));
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(headrace, m) {
    m.def(
        "sa_step(Tensor q, Tensor k, Tensor v, Tensor(a!) key_ring, Tensor(b!) value_ring, Tensor(c!) "
        "positions, "
        "Tensor slots, Tensor? lengths, int look_ahead, int look_back) -> Tensor");
    m.def(
        "llsa_step(Tensor q, Tensor k, Tensor v, Tensor(a!) key_ring, Tensor(b!) value_ring, Tensor(c!) "
        "positions, "
        "Tensor slots, Tensor? lengths, int look_ahead, int look_back, int hop, bool per_block) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(headrace, CPU, m) {
    m.impl("sa_step", TORCH_BOX(&sa_step));
    m.impl("llsa_step", TORCH_BOX(&llsa_step));
}

}  // namespace headrace

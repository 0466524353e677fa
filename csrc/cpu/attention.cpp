// SPDX-License-Identifier: Apache-2.0
// SA and LLSA on the CPU, forward and backward: one geometry (common/reach.h), compiled once per
// instruction set.
//
// A task takes a tile of about 128 rows of one head. It packs the keys that its rows see among the final
// rows, once, transposed and in the compute type (fp32; fp64 for fp64); then it takes a few rows at a time, a
// *unit*, whose keys are an interval of frames: first those among the final rows, then those of the unit's
// own block. The scores of a unit fit in the first-level cache, so the softmax is done in one go.
//
//   forward   S = Q K^T, P = softmax(S), Y = P V
//   backward  P = exp(S - log_sum), dP = dY V^T, dS = P (dP - sum(P dP)),
//             dQ = dS K, dK += dS^T Q, dV += P^T dY
//
// Backward walks along a segment of the sequence and keeps the sums of the keys that are still in sight in a
// window, which moves with it; sums are added in the order of the frames, so that the result is the same for
// any number of threads.
#include "attention.h"

#include "backward.h"
#include "forward.h"
#include "int8.h"
#include "step.h"

namespace headrace::HEADRACE_ISA {
namespace {

template <typename Visit>
void with_element(Element element, const Visit& visit) {
    switch (element) {
        case Element::kFloat32:
            return visit(float{});
        case Element::kFloat64:
            return visit(double{});
        case Element::kFloat16:
            return visit(Float16{});
        case Element::kBFloat16:
            return visit(BFloat16{});
    }
}

int64_t forward_tasks(const Forward& call) {
    return call.of.items * call.of.heads * tiles_of(call.of);
}

size_t forward_scratch_bytes(const Forward& call) {
    return call.of.element == Element::kFloat64 ? ForwardScratch<double>(call.of, nullptr).bytes
                                                : ForwardScratch<float>(call.of, nullptr).bytes;
}

void forward(const Forward& call, int64_t first_task, int64_t end_task, void* scratch) {
    with_element(call.of.element,
                 [&](auto element) { forward_of<decltype(element)>(call, first_task, end_task, scratch); });
}

size_t backward_scratch_bytes(const Backward& call) {
    return call.of.element == Element::kFloat64 ? BackwardScratch<double>(call.of, nullptr).bytes
                                                : BackwardScratch<float>(call.of, nullptr).bytes;
}

void backward(const Backward& call, int64_t first_task, int64_t end_task, void* scratch) {
    with_element(call.of.element,
                 [&](auto element) { backward_of<decltype(element)>(call, first_task, end_task, scratch); });
}

size_t step_scratch_bytes(const Step& call) {
    return call.element == Element::kFloat64 ? StepScratch<double>(call, nullptr).bytes
                                             : StepScratch<float>(call, nullptr).bytes;
}

void step(const Step& call, int64_t first_task, int64_t end_task, void* scratch) {
    with_element(call.element,
                 [&](auto element) { step_of<decltype(element)>(call, first_task, end_task, scratch); });
}

void add_borders(const Backward& call, int64_t first_task, int64_t end_task) {
    with_element(call.of.element,
                 [&](auto element) { add_borders_of<decltype(element)>(call, first_task, end_task); });
}

#define HEADRACE_TEXT_OF(x) #x
#define HEADRACE_TEXT(x) HEADRACE_TEXT_OF(x)

}  // namespace

extern const Kernels kKernels;
const Kernels kKernels = {HEADRACE_TEXT(HEADRACE_ISA),
                          forward_tasks,
                          forward_scratch_bytes,
                          forward,
                          backward_scratch_bytes,
                          backward,
                          step_scratch_bytes,
                          step,
                          add_borders,
                          few_rows_linear,
                          int8_quantize,
                          int8_product};

}  // namespace headrace::HEADRACE_ISA

// SPDX-License-Identifier: Apache-2.0
// What the library says of itself; `headrace doctor` prints it.
#include <string>

#include "cpu/attention.h"
#include "tensors.h"

namespace headrace {
namespace {

std::string cpu_instruction_set() {
    return kernels().name;
}

bool has_cuda_kernels() {
#ifdef HEADRACE_CUDA
    return true;
#else
    return false;
#endif
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(headrace, m) {
    m.def("cpu_instruction_set() -> str");
    m.def("has_cuda_kernels() -> bool");
}

STABLE_TORCH_LIBRARY_IMPL(headrace, CompositeExplicitAutograd, m) {
    m.impl("cpu_instruction_set", TORCH_BOX(&cpu_instruction_set));
    m.impl("has_cuda_kernels", TORCH_BOX(&has_cuda_kernels));
}

}  // namespace headrace

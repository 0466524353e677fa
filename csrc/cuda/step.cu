// SPDX-License-Identifier: Apache-2.0
// Launches step.cuh.
#include "kernels.cuh"
#include "step.cuh"

namespace headrace::cuda {
namespace {

template <typename Element>
__global__ void __launch_bounds__(kStepThreads) step_kernel(const __grid_constant__ Step call) {
    extern __shared__ __align__(16) unsigned char shared[];
    Tick<Element>(call, shared).run();
}

}  // namespace
}  // namespace headrace::cuda

extern "C" int HEADRACE_LAUNCHER(step)(const headrace::Step* call, void* stream) {
    using namespace headrace::cuda;
    return launch(step_kernel<HEADRACE_TYPE>, call->streams * call->heads, kStepThreads,
                  step_shared_bytes(call->features), *call, stream);
}

// SPDX-License-Identifier: Apache-2.0
// Launches forward.cuh.
#include "forward.cuh"
#include "kernels.cuh"

namespace headrace::cuda {
namespace {

template <typename Traits>
__global__ void __launch_bounds__(kThreads, Traits::kBlocksOfProcessor)
    forward_kernel(const __grid_constant__ Planned<Forward> planned) {
    extern __shared__ __align__(16) unsigned char shared[];
    forward_tile<Traits>(planned, shared);
}

}  // namespace
}  // namespace headrace::cuda

extern "C" int HEADRACE_LAUNCHER(forward)(const headrace::Forward* call, void* stream) {
    using namespace headrace::cuda;
    const Planned<headrace::Forward> planned(*call);
    return with_features<ForwardTraits, HEADRACE_TYPE>(call->of.features, [&](auto traits) {
        using Traits = decltype(traits);
        const int64_t blocks = call->of.items * call->of.heads * planned.plan.tiles;
        return launch(forward_kernel<Traits>, blocks, kThreads, Traits::kSharedBytes, planned, stream);
    });
}

// SPDX-License-Identifier: Apache-2.0
// Launches backward.cuh.
#include "backward.cuh"
#include "kernels.cuh"

namespace headrace::cuda {
namespace {

template <typename Traits>
__global__ void __launch_bounds__(kThreads, Traits::kBlocksOfProcessor)
    backward_kernel(const __grid_constant__ Planned<Backward> planned) {
    extern __shared__ __align__(16) unsigned char shared[];
    backward_tile<Traits>(planned, shared);
}

}  // namespace
}  // namespace headrace::cuda

extern "C" int HEADRACE_LAUNCHER(backward)(const headrace::cuda::Backward* call, void* stream) {
    using namespace headrace::cuda;
    const Planned<headrace::cuda::Backward> planned(*call);
    return with_features<BackwardTraits, HEADRACE_TYPE>(call->of.features, [&](auto traits) {
        using Traits = decltype(traits);
        const int64_t blocks =
            call->of.items * call->of.heads * (planned.plan.tiles + planned.plan.key_tiles);
        return launch(backward_kernel<Traits>, blocks, kThreads, Traits::kSharedBytes, planned, stream);
    });
}

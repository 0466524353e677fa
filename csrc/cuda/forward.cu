// SPDX-License-Identifier: Apache-2.0
// Launches forward.cuh: one kernel for each 16-bit type and each of 32, 64, 96 and 128 features, to which D
// is rounded up.
#include "forward.cuh"
#include "launch.h"

namespace headrace::cuda {
namespace {

template <typename Traits>
__global__ void __launch_bounds__(Traits::kThreads) forward_kernel(const __grid_constant__ Forward call) {
    extern __shared__ __align__(16) unsigned char shared[];
    forward_tile<Traits>(call, shared);
}

template <typename Traits>
cudaError_t launch(const Forward& call, cudaStream_t stream) {
    const int64_t tiles = call.of.items * call.of.heads * Tiling::of(call.of).tiles;
    if (tiles == 0) return cudaSuccess;
    if (tiles > INT32_MAX) return cudaErrorInvalidConfiguration;
    const auto kernel = forward_kernel<Traits>;
    const cudaError_t error =
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, Traits::kSharedBytes);
    if (error != cudaSuccess) return error;
    kernel<<<static_cast<unsigned>(tiles), Traits::kThreads, Traits::kSharedBytes, stream>>>(call);
    return cudaGetLastError();
}

template <typename Type>
cudaError_t with_features(const Forward& call, cudaStream_t stream) {
    if (call.of.features <= 32) return launch<ForwardTraits<Type, 32>>(call, stream);
    if (call.of.features <= 64) return launch<ForwardTraits<Type, 64>>(call, stream);
    if (call.of.features <= 96) return launch<ForwardTraits<Type, 96>>(call, stream);
    return launch<ForwardTraits<Type, 128>>(call, stream);
}

}  // namespace
}  // namespace headrace::cuda

extern "C" int headrace_cuda_forward(const headrace::Forward* call, void* stream) {
    using namespace headrace::cuda;
    const auto on = static_cast<cudaStream_t>(stream);
    switch (call->of.element) {
        case headrace::Element::kBFloat16:
            return with_features<BFloat16>(*call, on);
        case headrace::Element::kFloat16:
            return with_features<Float16>(*call, on);
        default:
            return cudaErrorInvalidValue;
    }
}

extern "C" const char* headrace_cuda_error(int code) {
    return cudaGetErrorString(static_cast<cudaError_t>(code));
}

// SPDX-License-Identifier: Apache-2.0
// What the launchers share. build.py compiles each of them once a type: HEADRACE_TYPE is the type of the
// tensors' numbers, HEADRACE_NAME its name at the end of the launcher's own.
#pragma once

#include "call.h"
#include "device.cuh"

#define HEADRACE_JOIN_(a, b) a##_##b
#define HEADRACE_JOIN(a, b) HEADRACE_JOIN_(a, b)
#define HEADRACE_LAUNCHER(name) HEADRACE_JOIN(headrace_cuda_##name, HEADRACE_NAME)

namespace headrace::cuda {

template <typename Kernel, typename Call>
cudaError_t launch(Kernel kernel, int64_t blocks, int threads, int shared_bytes, const Call& call,
                   void* stream) {
    if (blocks == 0) return cudaSuccess;
    if (blocks > INT32_MAX) return cudaErrorInvalidConfiguration;
    const cudaError_t error =
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes);
    if (error != cudaSuccess) return error;
    kernel<<<static_cast<unsigned>(blocks), threads, shared_bytes, static_cast<cudaStream_t>(stream)>>>(call);
    return cudaGetLastError();
}

}  // namespace headrace::cuda

// SPDX-License-Identifier: Apache-2.0
#include "backward.cuh"
#include "launch_tiles.cuh"

extern "C" int HEADRACE_LAUNCHER(backward)(const headrace::cuda::Backward* call, void* stream) {
    return headrace::cuda::launch_tiles<headrace::cuda::BackwardTraits>(*call, stream);
}

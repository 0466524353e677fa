// SPDX-License-Identifier: Apache-2.0
#include "forward.cuh"
#include "launch_tiles.cuh"

extern "C" int HEADRACE_LAUNCHER(forward)(const headrace::Forward* call, void* stream) {
    return headrace::cuda::launch_tiles<headrace::cuda::ForwardTraits>(*call, stream);
}

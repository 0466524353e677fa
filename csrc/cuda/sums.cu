// SPDX-License-Identifier: Apache-2.0
// What is done after a kernel and does not depend on the type of the tensors' numbers: parts of the bias's
// gradient are added up, streams are moved on.
#include "backward.cuh"
#include "kernels.cuh"

namespace headrace::cuda {
namespace {

struct AddUp {
    const float* parts;  // [items, heads, parts_of_head, offsets]
    float* sums;         // [heads, offsets]
    int64_t items, heads, parts_of_head, offsets;
};

// A thread block takes one head and 32 offsets; its 32 warps take every 32nd part each, then the first adds
// up what they have.
__global__ void __launch_bounds__(1024) add_up_kernel(const __grid_constant__ AddUp call) {
    __shared__ float of_warps[kWarp][kWarp];
    const int warp = thread() / kWarp, lane = thread() % kWarp;
    const int64_t groups = (call.offsets + kWarp - 1) / kWarp;
    const int64_t head = block() / groups, offset = block() % groups * kWarp + lane;
    const bool exists = offset < call.offsets;
    float sum = 0;
    for (int64_t i = warp; exists && i < call.items * call.parts_of_head; i += kWarp) {
        const int64_t item = i / call.parts_of_head, part = i % call.parts_of_head;
        sum += call.parts[((item * call.heads + head) * call.parts_of_head + part) * call.offsets + offset];
    }
    of_warps[warp][lane] = sum;
    barrier();
    if (warp > 0 || !exists) return;
    for (int i = 1; i < kWarp; ++i) sum += of_warps[i][lane];
    call.sums[head * call.offsets + offset] = sum;
}

struct Advance {
    int64_t* positions;
    const int64_t* slots;
    int64_t streams, taken;
};

__global__ void advance_kernel(const __grid_constant__ Advance call) {
    const int64_t i = int64_t{block()} * 256 + thread();
    if (i < call.streams) call.positions[call.slots[i]] += call.taken;
}

}  // namespace
}  // namespace headrace::cuda

extern "C" int64_t headrace_cuda_bias_parts(const headrace::Attention* of) {
    return int64_t{headrace::cuda::Plan::of(*of).tiles} * headrace::cuda::kWarps;
}

extern "C" int headrace_cuda_add_bias_parts(const headrace::cuda::Backward* call, float* grad_bias,
                                            void* stream) {
    using namespace headrace::cuda;
    const int64_t offsets = call->of.reach.num_offsets();
    const AddUp add{call->grad_bias_parts,
                    grad_bias,
                    call->of.items,
                    call->of.heads,
                    headrace_cuda_bias_parts(&call->of),
                    offsets};
    return launch(add_up_kernel, call->of.heads * ((offsets + kWarp - 1) / kWarp), 1024, 0, add, stream);
}

extern "C" int headrace_cuda_advance(const headrace::Step* call, int64_t* positions, int64_t taken,
                                     void* stream) {
    using namespace headrace::cuda;
    const Advance advance{positions, call->slots, call->streams, taken};
    return launch(advance_kernel, (call->streams + 255) / 256, 256, 0, advance, stream);
}

extern "C" const char* headrace_cuda_error(int code) {
    return cudaGetErrorString(static_cast<cudaError_t>(code));
}

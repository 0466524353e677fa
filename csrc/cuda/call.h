// SPDX-License-Identifier: Apache-2.0
// What the torch binding calls of the CUDA objects, which know nothing of torch. Each function returns a
// cudaError_t as a number.
#pragma once

#include "../cpu/attention.h"

namespace headrace::cuda {

// Every gradient is computed by the thread block that owns it, so there are neither borders nor sums to add
// up, except for the relative bias.
struct Backward {
    Attention of;
    View<const void> y, grad_y;
    const float* log_sums;
    View<void> grad_q, grad_k, grad_v;
    float* grad_bias_parts;  // [items, heads, headrace_cuda_bias_parts, num_offsets], zeroed; null: none
};

}  // namespace headrace::cuda

extern "C" {
int headrace_cuda_forward_fp32(const headrace::Forward* call, void* stream);
int headrace_cuda_forward_fp16(const headrace::Forward* call, void* stream);
int headrace_cuda_forward_bf16(const headrace::Forward* call, void* stream);
int headrace_cuda_backward_fp32(const headrace::cuda::Backward* call, void* stream);
int headrace_cuda_backward_fp16(const headrace::cuda::Backward* call, void* stream);
int headrace_cuda_backward_bf16(const headrace::cuda::Backward* call, void* stream);
// Parts of a head's gradient of the bias, which headrace_cuda_add_bias_parts adds up in a fixed order.
int64_t headrace_cuda_bias_parts(const headrace::Attention* of);
int headrace_cuda_add_bias_parts(const headrace::cuda::Backward* call, float* grad_bias, void* stream);
int headrace_cuda_step_fp32(const headrace::Step* call, void* stream);
int headrace_cuda_step_fp16(const headrace::Step* call, void* stream);
int headrace_cuda_step_bf16(const headrace::Step* call, void* stream);
// positions[slots[i]] += taken.
int headrace_cuda_advance(const headrace::Step* call, int64_t* positions, int64_t taken, void* stream);
const char* headrace_cuda_error(int code);
}

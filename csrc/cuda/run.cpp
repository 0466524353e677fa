// SPDX-License-Identifier: Apache-2.0
// The CUDA kernels behind the operations of operations.h: on the stream that is current, on
// the device of the tensors, without ever waiting for it. Compiled by the C++ compiler; built where nvcc is.
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>

#include "../operations.h"
#include "call.h"

// Only the CUDA builds of torch have it: null in others, where the same library loads as well.
extern "C" __attribute__((weak)) AOTITorchError aoti_torch_get_current_cuda_stream(int32_t device_index,
                                                                                   void** stream);

namespace headrace {
namespace {

using torch::stable::accelerator::DeviceGuard;

void* current_stream(const Tensor& x) {
    STD_TORCH_CHECK(aoti_torch_get_current_cuda_stream != nullptr,
                    "headrace: this build of torch has no CUDA streams.");
    void* stream = nullptr;
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(x.get_device_index(), &stream));
    return stream;
}

void check(int error, const char* what) {
    STD_TORCH_CHECK(error == 0, "headrace: ", what, " could not be launched: ", headrace_cuda_error(error));
}

// Kernels count frames and rows of a head in 32 bits.
void check_counts(const Attention& of) {
    const int64_t most = INT32_MAX / 2;
    STD_TORCH_CHECK(of.frames() < most && of.blocks * of.reach.rows < most,
                    "headrace: at most 2^30 rows of a head on a GPU, got ", of.blocks, " blocks of ",
                    of.reach.rows, ".");
}

void check_bias(bool is_shared) {
    STD_TORCH_CHECK(is_shared,
                    "headrace: a bias for each query has no kernels on a GPU; the torch path takes it.");
}

template <typename Call>
using Launcher = int (*)(const Call*, void*);

template <typename Call>
Launcher<Call> of_type(const Tensor& x, Launcher<Call> fp32, Launcher<Call> fp16, Launcher<Call> bf16) {
    switch (element_of(x)) {
        case Element::kFloat32:
            return fp32;
        case Element::kFloat16:
            return fp16;
        case Element::kBFloat16:
            return bf16;
        default:
            STD_TORCH_CHECK(false, "headrace: fp64 has no kernels on a GPU.");
            return nullptr;
    }
}

struct Cuda {
    static std::tuple<Tensor, Tensor> forward(const Tensor& q_given, const Tensor& k_given,
                                              const Tensor& v_given, const OptionalTensor& lengths,
                                              const OptionalTensor& bias, const Reach& reach) {
        const DeviceGuard guard(q_given.get_device_index());
        const Tensor q = with_unit_stride(q_given), k = with_unit_stride(k_given),
                     v = with_unit_stride(v_given);
        check_bias(!is_of_queries(bias));
        Tensor y = torch::stable::empty_like(q);
        Tensor log_sums = empty_log_sums(q);
        if (y.numel() == 0) return {y, log_sums};
        const Forward call{attention_of(q, k, v, lengths, bias, reach), writing(y),
                           log_sums.mutable_data_ptr()};
        check_counts(call.of);
        const auto launch = of_type<Forward>(q, headrace_cuda_forward_fp32, headrace_cuda_forward_fp16,
                                             headrace_cuda_forward_bf16);
        check(launch(&call, current_stream(q)), "forward");
        return {y, log_sums};
    }

    static std::tuple<Tensor, Tensor, Tensor, Tensor> backward(
        const Tensor& grad_y_given, const Tensor& q_given, const Tensor& k_given, const Tensor& v_given,
        const Tensor& y_given, const Tensor& log_sums, const OptionalTensor& lengths,
        const OptionalTensor& bias, const Reach& reach) {
        const DeviceGuard guard(q_given.get_device_index());
        const Tensor q = with_unit_stride(q_given), k = with_unit_stride(k_given),
                     v = with_unit_stride(v_given);
        const Tensor grad_y = with_unit_stride(grad_y_given), y = with_unit_stride(y_given);
        check_bias(!is_of_queries(bias));
        Tensor grad_q = torch::stable::empty_like(q), grad_k = torch::stable::empty_like(k);
        Tensor grad_v = torch::stable::empty_like(v);
        cuda::Backward call{attention_of(q, k, v, lengths, bias, reach),
                            reading(y),
                            reading(grad_y),
                            static_cast<const float*>(log_sums.const_data_ptr()),
                            writing(grad_q),
                            writing(grad_k),
                            writing(grad_v),
                            nullptr};
        const int64_t offsets = bias.has_value() ? reach.num_offsets() : 0;
        Tensor grad_bias = torch::stable::new_zeros(q, {call.of.heads, offsets}, ScalarType::Float);
        if (grad_q.numel() == 0) return {grad_q, grad_k, grad_v, grad_bias};
        check_counts(call.of);
        void* stream = current_stream(q);
        Tensor parts = torch::stable::new_zeros(
            q, {call.of.items, call.of.heads, offsets > 0 ? headrace_cuda_bias_parts(&call.of) : 0, offsets},
            ScalarType::Float);
        if (offsets > 0) call.grad_bias_parts = static_cast<float*>(parts.mutable_data_ptr());
        const auto launch = of_type<cuda::Backward>(q, headrace_cuda_backward_fp32,
                                                    headrace_cuda_backward_fp16, headrace_cuda_backward_bf16);
        check(launch(&call, stream), "backward");
        if (offsets > 0) {
            check(headrace_cuda_add_bias_parts(&call, static_cast<float*>(grad_bias.mutable_data_ptr()),
                                               stream),
                  "the sum of the bias's gradient");
        }
        return {grad_q, grad_k, grad_v, grad_bias};
    }

    static Tensor step(const Tensor& q_given, const Tensor& k_given, const Tensor& v_given,
                       const Tensor& key_ring, const Tensor& value_ring, const Tensor& positions,
                       const Tensor& slots, const OptionalTensor& lengths, const OptionalTensor& bias,
                       const Reach& reach) {
        const DeviceGuard guard(q_given.get_device_index());
        const Tensor q = with_unit_stride(q_given), k = with_unit_stride(k_given),
                     v = with_unit_stride(v_given);
        check_bias(!bias.has_value());
        Tensor y = torch::stable::empty_like(q);
        const Step call = step_of(q, k, v, y, key_ring, value_ring, positions, slots, lengths, bias, reach);
        void* stream = current_stream(q);
        const auto launch =
            of_type<Step>(q, headrace_cuda_step_fp32, headrace_cuda_step_fp16, headrace_cuda_step_bf16);
        check(launch(&call, stream), "a tick");
        const int64_t taken = reach.is_band ? call.key_rows : reach.hop;
        check(
            headrace_cuda_advance(&call, static_cast<int64_t*>(positions.mutable_data_ptr()), taken, stream),
            "the end of a tick");
        return y;
    }
};

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(headrace, CUDA, m) {
    HEADRACE_IMPLEMENT(m, Cuda);
}

}  // namespace headrace

// SPDX-License-Identifier: Apache-2.0
#include "run.h"

#include <algorithm>
#include <cstdlib>
#include <memory>

namespace headrace {
namespace {

constexpr int64_t kTasksWanted = 64;       // enough for the threads of a large machine
constexpr int64_t kShortestSegment = 256;  // frames
constexpr int64_t kChannelsOfTask = 64;

struct Free {
    void operator()(void* memory) const { std::free(memory); }
};

std::unique_ptr<void, Free> allocate(size_t bytes) {
    const size_t rounded = (bytes + 63) / 64 * 64;
    void* memory = std::aligned_alloc(64, std::max<size_t>(rounded, 64));
    STD_TORCH_CHECK(memory != nullptr, "headrace: out of memory for ", bytes, " bytes of scratch.");
    return std::unique_ptr<void, Free>(memory);
}

// Depends on shapes alone: the same sums in the same order on any machine with the same instruction set.
Segments segments_of(const Attention& of) {
    const Reach& reach = of.reach;
    Segments segments{1, of.blocks, 0, 0};
    if (reach.look_back < 0) return segments;
    segments.before = reach.look_back;
    segments.after = reach.is_band ? reach.farthest_ahead() : 0;
    const int64_t shortest = std::max(kShortestSegment, segments.before + segments.after);
    const int64_t wanted = kTasksWanted / std::max<int64_t>(1, of.items * of.heads);
    const int64_t count = std::clamp<int64_t>(wanted, 1, std::max<int64_t>(1, of.frames() / shortest));
    segments.blocks_each = (of.blocks + count - 1) / count;
    segments.blocks_each = std::max<int64_t>(1, segments.blocks_each);
    segments.count = std::max<int64_t>(1, (of.blocks + segments.blocks_each - 1) / segments.blocks_each);
    return segments;
}

template <typename Real>
void add_parts(const Real* parts, Real* sums, const Attention& of, int64_t segments, int64_t offsets) {
    for (int64_t row = 0; row < of.items * of.heads * segments; ++row) {
        Real* to = sums + row / segments % of.heads * offsets;
        for (int64_t i = 0; i < offsets; ++i) to[i] += parts[row * offsets + i];
    }
}

// [items, heads, segments, offsets] -> [heads, offsets], in one order whatever the number of threads.
Tensor add_up(const Tensor& parts, const Attention& of) {
    const int64_t segments = parts.size(2), offsets = parts.size(3);
    Tensor sums = torch::stable::new_zeros(parts, {of.heads, offsets});
    if (parts.numel() == 0) return sums;
    if (parts.scalar_type() == ScalarType::Double) {
        add_parts(static_cast<const double*>(parts.const_data_ptr()),
                  static_cast<double*>(sums.mutable_data_ptr()), of, segments, offsets);
    } else {
        add_parts(static_cast<const float*>(parts.const_data_ptr()),
                  static_cast<float*>(sums.mutable_data_ptr()), of, segments, offsets);
    }
    return sums;
}

void compute(const Forward& call) {
    const Kernels& run = kernels();
    torch::stable::parallel_for(0, run.forward_tasks(call), 1, [&](int64_t first, int64_t end) {
        const auto scratch = allocate(run.forward_scratch_bytes(call));
        run.forward(call, first, end, scratch.get());
    });
}

// Where rows add their dS, see Backward.
Tensor zeroed_bias_sums(const Backward& call, const Tensor& q, const OptionalTensor& bias) {
    if (is_of_queries(bias)) return torch::stable::new_zeros(q, bias->sizes(), compute_type(q));
    const int64_t offsets = bias.has_value() ? call.of.reach.num_offsets() : 0;
    return torch::stable::new_zeros(q, {call.of.items, call.of.heads, call.segments.count, offsets},
                                    compute_type(q));
}

// Gradients of q, k and v with their strides, and of the bias.
std::tuple<Tensor, Tensor, Tensor, Tensor> gradients(Backward call, const Tensor& q, const Tensor& k,
                                                     const Tensor& v, const OptionalTensor& bias) {
    Tensor grad_q = torch::stable::empty_like(q), grad_k = torch::stable::empty_like(k);
    Tensor grad_v = torch::stable::empty_like(v);
    call.grad_q = writing(grad_q);
    call.grad_k = writing(grad_k);
    call.grad_v = writing(grad_v);
    call.segments = segments_of(call.of);
    const int64_t heads = call.of.items * call.of.heads, borders = call.segments.count - 1;
    Tensor border_sums = torch::stable::new_zeros(
        q, {heads, borders, 4, call.segments.before + call.segments.after, call.of.features},
        compute_type(q));
    Tensor bias_sums = zeroed_bias_sums(call, q, bias);
    const bool of_queries = is_of_queries(bias);
    if (grad_q.numel() > 0) {
        call.borders = border_sums.mutable_data_ptr();
        if (bias.has_value()) call.bias_sums = writing(bias_sums);
        if (!of_queries) std::swap(call.bias_sums.strides.block, call.bias_segment);
        const Kernels& run = kernels();
        torch::stable::parallel_for(0, heads * call.segments.count, 1, [&](int64_t first, int64_t end) {
            const auto scratch = allocate(run.backward_scratch_bytes(call));
            run.backward(call, first, end, scratch.get());
        });
        torch::stable::parallel_for(0, heads * borders, 1,
                                    [&](int64_t first, int64_t end) { run.add_borders(call, first, end); });
    }
    return {grad_q, grad_k, grad_v, of_queries ? bias_sums : add_up(bias_sums, call.of)};
}

// What is read; `gradients` fills in what is written.
Backward backward_of(const Attention& of, const Tensor& grad_y, const Tensor& log_sums) {
    return Backward{of, reading(grad_y), log_sums.const_data_ptr(), {}, {}, {}, {}, nullptr, {}, 0};
}

}  // namespace

std::tuple<Tensor, Tensor> Cpu::forward(const Tensor& q_given, const Tensor& k_given, const Tensor& v_given,
                                        const OptionalTensor& lengths, const OptionalTensor& bias_given,
                                        const Reach& reach) {
    const Tensor q = with_unit_stride(q_given), k = with_unit_stride(k_given), v = with_unit_stride(v_given);
    const OptionalTensor bias = with_unit_stride(bias_given);
    Tensor y = torch::stable::empty_like(q);
    Tensor log_sums = empty_log_sums(q);
    if (y.numel() > 0) {
        compute({attention_of(q, k, v, lengths, bias, reach), writing(y), log_sums.mutable_data_ptr()});
    }
    return {y, log_sums};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> Cpu::backward(const Tensor& grad_y, const Tensor& q_given,
                                                         const Tensor& k_given, const Tensor& v_given,
                                                         const Tensor& /*y*/, const Tensor& log_sums,
                                                         const OptionalTensor& lengths,
                                                         const OptionalTensor& bias_given,
                                                         const Reach& reach) {
    const Tensor q = with_unit_stride(q_given), k = with_unit_stride(k_given), v = with_unit_stride(v_given);
    const OptionalTensor bias = with_unit_stride(bias_given);
    const Tensor grad = with_unit_stride(grad_y);
    return gradients(backward_of(attention_of(q, k, v, lengths, bias, reach), grad, log_sums), q, k, v, bias);
}

std::tuple<Tensor, Tensor> Cpu::first_layer(const Tensor& q_given, const Tensor& k_given,
                                            const Tensor& v_given, const OptionalTensor& lengths,
                                            const OptionalTensor& bias, int64_t look_ahead, int64_t look_back,
                                            int64_t hop) {
    const Tensor q = with_unit_stride(q_given), k = with_unit_stride(k_given), v = with_unit_stride(v_given);
    const Attention of = attention_of_frames(q, k, v, lengths, bias, look_ahead, look_back, hop);
    const ChannelRows& rows = of.channels;
    // heads next to features, as projections behind it read them without a copy
    const Tensor memory =
        torch::stable::new_empty(q, {of.items, rows.blocks, rows.rows, of.heads, of.features});
    Tensor y = torch::stable::transpose(torch::stable::transpose(memory, 1, 3), 2, 3);
    Tensor log_sums =
        torch::stable::new_empty(q, {of.items, of.heads, rows.blocks, rows.rows}, compute_type(q));
    if (y.numel() > 0) compute({of, writing(y), log_sums.mutable_data_ptr()});
    return {y, log_sums};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> Cpu::first_layer_backward(
    const Tensor& grad_y, const Tensor& q_given, const Tensor& k_given, const Tensor& v_given,
    const Tensor& /*y*/, const Tensor& log_sums, const OptionalTensor& lengths, const OptionalTensor& bias,
    int64_t look_ahead, int64_t look_back, int64_t hop) {
    const Tensor q = with_unit_stride(q_given), k = with_unit_stride(k_given), v = with_unit_stride(v_given);
    const Tensor grad = with_unit_stride(grad_y);
    const Attention of = attention_of_frames(q, k, v, lengths, bias, look_ahead, look_back, hop);
    return gradients(backward_of(of, grad, log_sums), q, k, v, bias);
}

Tensor Cpu::step(const Tensor& q_given, const Tensor& k_given, const Tensor& v_given, const Tensor& key_ring,
                 const Tensor& value_ring, const Tensor& positions, const Tensor& slots,
                 const OptionalTensor& lengths, const OptionalTensor& bias_given, const Reach& reach) {
    const Tensor q = with_unit_stride(q_given), k = with_unit_stride(k_given), v = with_unit_stride(v_given);
    const OptionalTensor bias = with_unit_stride(bias_given);
    Tensor y = torch::stable::empty_like(q);
    const Step call = step_of(q, k, v, y, key_ring, value_ring, positions, slots, lengths, bias, reach);
    const Kernels& run = kernels();
    torch::stable::parallel_for(0, call.streams * call.heads, 1, [&](int64_t first, int64_t end) {
        const auto scratch = allocate(run.step_scratch_bytes(call));
        run.step(call, first, end, scratch.get());
    });
    int64_t* reached = static_cast<int64_t*>(positions.mutable_data_ptr());
    const int64_t taken = reach.is_band ? call.key_rows : reach.hop;
    for (int64_t i = 0; i < call.streams; ++i) reached[call.slots[i]] += taken;
    return y;
}

Tensor Cpu::few_rows_linear(const Tensor& x_given, const Tensor& weight_given, const OptionalTensor& bias) {
    const Tensor x = with_unit_stride(x_given), weight = torch::stable::contiguous(weight_given);
    const int64_t rows = x.size(0), depth = x.size(1), channels = weight.size(0);
    for (const Tensor& given : {x, weight}) {
        STD_TORCH_CHECK(
            given.scalar_type() == ScalarType::Float && given.size(1) == depth,
            "headrace: few_rows_linear: x must be [rows, depth] and weight [channels, depth], fp32.");
    }
    Tensor y = torch::stable::new_empty(x, {rows, channels});
    if (y.numel() == 0) return y;
    const LinearOfFewRows call{rows,
                               channels,
                               depth,
                               static_cast<const float*>(x.const_data_ptr()),
                               x.stride(0),
                               static_cast<const float*>(weight.const_data_ptr()),
                               bias.has_value() ? static_cast<const float*>(bias->const_data_ptr()) : nullptr,
                               static_cast<float*>(y.mutable_data_ptr())};
    const Kernels& run = kernels();
    torch::stable::parallel_for(0, channels, kChannelsOfTask,
                                [&](int64_t first, int64_t end) { run.few_rows_linear(call, first, end); });
    return y;
}

Tensor Cpu::int8_linear(const Tensor& x_given, const Tensor& weight, const Tensor& scales,
                        const OptionalTensor& bias) {
    const Tensor x = with_unit_stride(x_given);
    const int64_t rows = x.size(0), depth = x.size(1), channels = weight.size(0), padded = weight.size(1);
    STD_TORCH_CHECK(padded % kInt8Padding == 0 && padded >= depth,
                    "headrace: int8_linear: weight must be padded to a "
                    "multiple of ",
                    kInt8Padding, " of at least ", depth, ", got ", padded, ".");
    Tensor y = torch::stable::new_empty(x, {rows, channels});
    if (y.numel() == 0) return y;
    const auto memory = allocate(static_cast<size_t>(rows) * (static_cast<size_t>(padded) * 2 + 4));
    float* x_scales = static_cast<float*>(memory.get());
    int16_t* quantized = reinterpret_cast<int16_t*>(x_scales + rows);
    const Kernels& run = kernels();
    const Int8Rows in{
        static_cast<const float*>(x.const_data_ptr()), x.stride(0), depth, padded, quantized, x_scales};
    run.int8_quantize(in, 0, rows);
    const Int8Product call{rows,
                           channels,
                           padded,
                           quantized,
                           x_scales,
                           static_cast<const int8_t*>(weight.const_data_ptr()),
                           static_cast<const float*>(scales.const_data_ptr()),
                           bias.has_value() ? static_cast<const float*>(bias->const_data_ptr()) : nullptr,
                           static_cast<float*>(y.mutable_data_ptr())};
    torch::stable::parallel_for(0, channels, kChannelsOfTask,
                                [&](int64_t first, int64_t end) { run.int8_product(call, first, end); });
    return y;
}

}  // namespace headrace

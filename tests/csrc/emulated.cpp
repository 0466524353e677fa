// SPDX-License-Identifier: Apache-2.0
// The CUDA kernels, run on the host by emulator.h, for tests/csrc/test_cuda_emulated.py.
#define HEADRACE_EMULATED
#include "../../csrc/cuda/forward.cuh"

using namespace headrace;
using namespace headrace::cuda;

namespace {

template <typename Traits>
void run(const Forward& call) {
    std::vector<uint4> shared(Traits::kSharedBytes / sizeof(uint4));
    const int64_t blocks = call.of.items * call.of.heads * Tiling::of(call.of).tiles;
    for (int64_t i = 0; i < blocks; ++i) {
        std::memset(shared.data(), 0xff, Traits::kSharedBytes);  // NaN
        Emulator::now().run(i, Traits::kThreads, [&] { forward_tile<Traits>(call, shared.data()); });
    }
}

template <typename Element>
void with_features(const Forward& call) {
    if (call.of.features <= 32) return run<ForwardTraits<Element, 32>>(call);
    if (call.of.features <= 64) return run<ForwardTraits<Element, 64>>(call);
    if (call.of.features <= 96) return run<ForwardTraits<Element, 96>>(call);
    return run<ForwardTraits<Element, 128>>(call);
}

}  // namespace

// sizes: items, heads, blocks, query_rows, features; strides: item, head, block, row of q, k, v, y.
extern "C" int headrace_emulated_forward(const int64_t* sizes, const int64_t* strides, const int64_t* reach,
                                         int is_half, const int64_t* lengths, const float* bias,
                                         const void* q, const void* k, const void* v, void* y,
                                         float* log_sums) {
    const auto stride = [&](int i) {
        return Strides{strides[4 * i], strides[4 * i + 1], strides[4 * i + 2], strides[4 * i + 3]};
    };
    Forward call{};
    call.of = Attention{
        sizes[0],
        sizes[1],
        sizes[2],
        sizes[3],
        sizes[4],
        reach[0] ? Reach::band(reach[1], reach[2]) : Reach::of_blocks(reach[1], reach[2], reach[3], reach[4]),
        is_half ? headrace::Element::kFloat16 : headrace::Element::kBFloat16,
        lengths,
        bias,
        {q, stride(0)},
        {k, stride(1)},
        {v, stride(2)}};
    call.y = {y, stride(3)};
    call.log_sums = log_sums;
    try {
        is_half ? with_features<Float16>(call) : with_features<BFloat16>(call);
    } catch (const std::exception&) {
        return 1;
    }
    return 0;
}

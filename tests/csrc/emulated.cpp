// SPDX-License-Identifier: Apache-2.0
// The CUDA kernels, run on the host by emulator.h, for tests/csrc/test_cuda_emulated.py.
#define HEADRACE_EMULATED
#include "../../csrc/cuda/backward.cuh"
#include "../../csrc/cuda/forward.cuh"
#include "../../csrc/cuda/step.cuh"

using namespace headrace;
using namespace headrace::cuda;

namespace {

// A grid of `blocks`, one after the other, each in shared memory that is full of NaN.
int run(int64_t blocks, int threads, int shared_bytes, const std::function<void(void*)>& kernel) {
    std::vector<uint4> shared(shared_bytes / sizeof(uint4) + 1);
    try {
        for (int64_t i = 0; i < blocks; ++i) {
            std::memset(shared.data(), 0xff, shared.size() * sizeof(uint4));
            Emulator::now().run(i, threads, [&] { kernel(shared.data()); });
        }
    } catch (const std::exception&) {
        return 1;
    }
    return 0;
}

template <typename Run>
int with_element(headrace::Element element, const Run& run) {
    if (element == headrace::Element::kFloat32) return run(float{});
    if (element == headrace::Element::kFloat16) return run(Float16{});
    return run(BFloat16{});
}

Reach reach_of(const int64_t* numbers) {
    return numbers[0] ? Reach::band(numbers[1], numbers[2])
                      : Reach::of_blocks(numbers[1], numbers[2], numbers[3], numbers[4]);
}

Strides strides_of(const int64_t* strides) {
    return {strides[0], strides[1], strides[2], strides[3]};
}

}  // namespace

// What test_cuda_emulated.py fills in: sizes are items, heads, blocks, query_rows, features; strides are
// item, head, block, row of q, k, v, y, grad_y, grad_q, grad_k, grad_v.
struct Given {
    int64_t sizes[5], strides[8][4], reach[5], element;
    const int64_t* lengths;
    const float* bias;
    void* data[8];
    float *log_sums, *grad_bias_parts;

    View<const void> reading(int i) const { return {data[i], strides_of(strides[i])}; }
    View<void> writing(int i) const { return {data[i], strides_of(strides[i])}; }

    Attention attention() const {
        return Attention{sizes[0],
                         sizes[1],
                         sizes[2],
                         sizes[3],
                         sizes[4],
                         reach_of(reach),
                         static_cast<headrace::Element>(element),
                         lengths,
                         {bias, {0, reach_of(reach).num_offsets(), 0, 0}},
                         reading(0),
                         reading(1),
                         reading(2),
                         {}};
    }
};

extern "C" int emulated_quotient(int64_t divisor, int n) {
    return Divisor::of(divisor).quotient(n);
}

namespace {

// As csrc/cuda/launch_tiles.cuh: one thread block a tile.
template <template <typename, int> class TraitsOf, typename Call>
int run_tiles(const Call& call) {
    const Planned<Call> planned(call);
    const Attention& of = call.of;
    return with_element(of.element, [&](auto element) {
        return with_features<TraitsOf, decltype(element)>(of.features, [&](auto traits) {
            using Traits = decltype(traits);
            return run(of.items * of.heads * Traits::tiles(planned.plan), kThreads, Traits::kSharedBytes,
                       [&](void* shared) { compute_tile<Traits>(planned, shared); });
        });
    });
}

}  // namespace

extern "C" int emulated_forward(const Given* given) {
    return run_tiles<ForwardTraits>(Forward{given->attention(), given->writing(3), given->log_sums});
}

extern "C" int64_t emulated_bias_parts(const Given* given) {
    return Plan::of(given->attention()).tiles * kWarps;
}

extern "C" int emulated_backward(const Given* given) {
    return run_tiles<BackwardTraits>(headrace::cuda::Backward{
        given->attention(), given->reading(3), given->reading(4), given->log_sums, given->writing(5),
        given->writing(6), given->writing(7), given->grad_bias_parts});
}

// Sizes are streams, heads, query_rows, key_rows, features, ring frames; strides are item, head, row of q, k,
// v, y.
struct GivenStep {
    int64_t sizes[6], strides[4][3], reach[5], element;
    const int64_t *lengths, *positions, *slots;
    void* data[4];
    void *key_ring, *value_ring;
};

extern "C" int emulated_step(const GivenStep* given) {
    const auto strides = [&](int i) {
        return Strides{given->strides[i][0], given->strides[i][1], 0, given->strides[i][2]};
    };
    const int64_t* sizes = given->sizes;
    const Step call{sizes[0],
                    sizes[1],
                    sizes[2],
                    sizes[3],
                    sizes[4],
                    reach_of(given->reach),
                    static_cast<headrace::Element>(given->element),
                    given->lengths,
                    {given->data[0], strides(0)},
                    {given->data[1], strides(1)},
                    {given->data[2], strides(2)},
                    {given->data[3], strides(3)},
                    given->key_ring,
                    given->value_ring,
                    sizes[5],
                    given->positions,
                    given->slots};
    return with_element(call.element, [&](auto element) {
        return run(call.streams * call.heads, kStepThreads, step_shared_bytes(call.features),
                   [&](void* shared) { Tick<decltype(element)>(call, shared).run(); });
    });
}

// SPDX-License-Identifier: Apache-2.0
// csrc/cuda/device.cuh on the host: a thread block's threads are fibers that take turns, so that the very
// code of a kernel runs, with its barriers, its exchanges within a warp and its matrix instructions, where
// there is no GPU. What the PTX manual says of a fragment's layout is written down here a second time,
// element by element.
#pragma once

#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <stdexcept>
#include <vector>

#define HEADRACE_DEVICE inline

struct uint4 {
    uint32_t x, y, z, w;
};
struct float4 {
    float x, y, z, w;
};
struct float2 {
    float x, y;
};
inline float rsqrtf(float x) {
    return 1 / std::sqrt(x);
}

namespace headrace::cuda {

// One thread block.
class Emulator {
  public:
    static Emulator& now() {
        static Emulator* emulator = new Emulator;
        return *emulator;
    }

    // Run `kernel` by `threads` threads as block number `block` of a grid.
    void run(int64_t block, int threads, const std::function<void()>& kernel) {
        block_ = block;
        kernel_ = &kernel;
        fibers_.clear();
        slots_.assign(threads, Slot{});
        for (int i = 0; i < threads; ++i) {
            fibers_.push_back(std::make_unique<Fiber>());
            Fiber& fiber = *fibers_.back();
            fiber.stack.resize(1 << 18);
            getcontext(&fiber.context);
            fiber.context.uc_stack.ss_sp = fiber.stack.data();
            fiber.context.uc_stack.ss_size = fiber.stack.size();
            fiber.context.uc_link = &scheduler_;
            makecontext(&fiber.context, &Emulator::enter, 0);
        }
        for (int turn = 0, running = threads; running > 0; ++turn) {
            running = 0;
            for (current_ = 0; current_ < threads; ++current_) {
                if (fibers_[current_]->done) continue;
                ++running;
                swapcontext(&scheduler_, &fibers_[current_]->context);
            }
            if (turn > 10'000'000) throw std::runtime_error("threads wait for each other");
        }
    }

    int thread() const { return current_; }
    int64_t block() const { return block_; }

    // Wait until all threads from `first` on, `count` of them, have come here.
    void meet(int first, int count) {
        const int me = current_;
        const int64_t turn = ++fibers_[me]->meetings[count];
        for (;;) {
            bool all = true;
            for (int i = first; i < first + count; ++i) all = all && fibers_[i]->meetings[count] >= turn;
            if (all) return;
            swapcontext(&fibers_[me]->context, &scheduler_);
        }
    }
    void meet_all() { meet(0, static_cast<int>(fibers_.size())); }
    void meet_warp() { meet(current_ / kWarp * kWarp, kWarp); }

    struct Slot {
        const void* pointer;
        uint32_t words[6];
    };
    Slot& slot(int lane) { return slots_[current_ / kWarp * kWarp + lane]; }
    Slot& own_slot() { return slots_[current_]; }

  private:
    struct Fiber {
        ucontext_t context;
        std::vector<char> stack;
        int64_t meetings[1025] = {};  // by the number of threads that meet
        bool done = false;
    };

    static void enter() {
        Emulator& e = now();
        (*e.kernel_)();
        e.fibers_[e.current_]->done = true;
    }

    ucontext_t scheduler_;
    std::vector<std::unique_ptr<Fiber>> fibers_;
    std::vector<Slot> slots_;
    const std::function<void()>* kernel_ = nullptr;
    int current_ = 0;
    int64_t block_ = 0;
};

inline int thread() {
    return Emulator::now().thread();
}
inline int block() {
    return static_cast<int>(Emulator::now().block());
}
inline void barrier() {
    Emulator::now().meet_all();
}

inline void copy16_async(void* to, const void* from) {
    if (reinterpret_cast<uintptr_t>(to) % 16 != 0 || reinterpret_cast<uintptr_t>(from) % 16 != 0) {
        throw std::runtime_error("a copy of 16 bytes is not aligned");
    }
    std::memcpy(to, from, 16);
}
inline void wait_for_copies() {}

inline float widen(uint16_t bits, BFloat16) {
    const uint32_t wide = static_cast<uint32_t>(bits) << 16;
    float x;
    std::memcpy(&x, &wide, 4);
    return x;
}
inline float widen(uint16_t bits, Float16) {
    _Float16 x;
    std::memcpy(&x, &bits, 2);
    return static_cast<float>(x);
}
inline uint16_t narrow(float x, BFloat16) {
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}
inline uint16_t narrow(float x, Float16) {
    const _Float16 half = static_cast<_Float16>(x);
    uint16_t bits;
    std::memcpy(&bits, &half, 2);
    return bits;
}
inline float to_float(BFloat16 x) {
    return widen(x.bits, x);
}
inline float to_float(Float16 x) {
    return widen(x.bits, x);
}
template <typename Element>
inline Element from_float(float x, Element type) {
    return Element{narrow(x, type)};
}
template <typename Element>
inline uint32_t pack(float x, float y, Element type) {
    return narrow(x, type) | static_cast<uint32_t>(narrow(y, type)) << 16;
}

inline uint16_t half_of(uint32_t word, int which) {
    return static_cast<uint16_t>(word >> (16 * which));
}

// Lane l gives row l % 8 of matrix l / 8 and gets, of each matrix, row l / 4, columns 2 (l % 4) and the next;
// transposed, column l / 4, rows 2 (l % 4) and the next.
inline void load_matrices_as(uint32_t (&to)[4], const void* row, bool transposed) {
    Emulator& e = Emulator::now();
    const int lane = thread() % kWarp;
    if (reinterpret_cast<uintptr_t>(row) % 16 != 0)
        throw std::runtime_error("a row of a matrix is not aligned");
    e.own_slot().pointer = row;
    e.meet_warp();
    for (int m = 0; m < 4; ++m) {
        uint16_t both[2];
        for (int i = 0; i < 2; ++i) {
            const int r = transposed ? lane % 4 * 2 + i : lane / 4,
                      c = transposed ? lane / 4 : lane % 4 * 2 + i;
            both[i] = static_cast<const uint16_t*>(e.slot(m * 8 + r).pointer)[c];
        }
        to[m] = both[0] | static_cast<uint32_t>(both[1]) << 16;
    }
    e.meet_warp();
}
inline void load_matrices(uint32_t (&to)[4], const void* row) {
    load_matrices_as(to, row, false);
}
inline void load_matrices_transposed(uint32_t (&to)[4], const void* row) {
    load_matrices_as(to, row, true);
}

// mma.m16n8k16: of a, lane l holds rows l / 4 and l / 4 + 8, columns 2 (l % 4) and the next, and both plus 8;
// of b, column l / 4, rows 2 (l % 4) and the next, and both plus 8; of the sums, rows l / 4 and l / 4 + 8,
// columns 2 (l % 4) and the next.
template <typename Element>
inline void multiply_add(float (&sums)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, Element type) {
    Emulator& e = Emulator::now();
    const int lane = thread() % kWarp;
    std::memcpy(e.own_slot().words, a, sizeof(a));
    e.own_slot().words[4] = b0;
    e.own_slot().words[5] = b1;
    e.meet_warp();
    for (int i = 0; i < 4; ++i) {
        const int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
        float sum = 0;
        for (int k = 0; k < 16; ++k) {
            const uint32_t left = e.slot(row % 8 * 4 + k % 8 / 2).words[row / 8 + k / 8 * 2];
            const uint32_t right = e.slot(column * 4 + k % 8 / 2).words[4 + k / 8];
            sum += widen(half_of(left, k % 2), type) * widen(half_of(right, k % 2), type);
        }
        sums[i] += sum;
    }
    e.meet_warp();
}

inline void warp_barrier() {
    Emulator::now().meet_warp();
}
template <typename Number>
inline Number value_of_lane(Number x, int lane) {
    Emulator& e = Emulator::now();
    std::memcpy(e.own_slot().words, &x, 4);
    e.meet_warp();
    Number other;
    std::memcpy(&other, e.slot(lane).words, 4);
    e.meet_warp();
    return other;
}
template <typename Number>
inline Number exchange(Number x, int lanes_apart) {
    return value_of_lane(x, (thread() % kWarp) ^ lanes_apart);
}
inline float power_of_2(float x) {
    return std::exp2(x);
}
inline float log_2(float x) {
    return std::log2(x);
}

}  // namespace headrace::cuda

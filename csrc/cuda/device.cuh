// SPDX-License-Identifier: Apache-2.0
// The few instructions that the kernels use, each a function. tests/csrc/emulator.h gives the same names on
// the host, lane by lane, so that the kernels run and are tested where there is no GPU.
#pragma once

#include <cstdint>

#include "../cpu/attention.h"

namespace headrace::cuda {

struct BFloat16 {
    uint16_t bits;
};
struct Float16 {
    uint16_t bits;
};

constexpr int kWarp = 32;
constexpr float kLog2E = 1.44269504f;

}  // namespace headrace::cuda

#ifdef HEADRACE_EMULATED
#include "emulator.h"
#else
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#define HEADRACE_DEVICE __device__ __forceinline__

namespace headrace::cuda {

HEADRACE_DEVICE int thread() {
    return static_cast<int>(threadIdx.x);
}
HEADRACE_DEVICE int block() {
    return static_cast<int>(blockIdx.x);
}
HEADRACE_DEVICE void barrier() {
    __syncthreads();
}

HEADRACE_DEVICE uint32_t shared_address(const void* p) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

// 16 bytes from global to shared memory.
HEADRACE_DEVICE void copy16_async(void* to, const void* from) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(to)), "l"(from));
}
HEADRACE_DEVICE void wait_for_copies() {
    asm volatile("cp.async.commit_group;\ncp.async.wait_group 0;" ::: "memory");
}

// Four 8 x 8 matrices of 16-bit numbers; lane l gives the address of row l % 8 of matrix l / 8.
HEADRACE_DEVICE void load_matrices(uint32_t (&to)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(shared_address(row)));
}
HEADRACE_DEVICE void load_matrices_transposed(uint32_t (&to)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(shared_address(row)));
}

// sums[16, 8] += a[16, 16] b[16, 8], in fp32.
HEADRACE_DEVICE void multiply_add(float (&sums)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                                  BFloat16) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
HEADRACE_DEVICE void multiply_add(float (&sums)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                                  Float16) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Two numbers in one register, the first in the lower half.
HEADRACE_DEVICE uint32_t pack(float x, float y, BFloat16) {
    const __nv_bfloat162 both = __floats2bfloat162_rn(x, y);
    return *reinterpret_cast<const uint32_t*>(&both);
}
HEADRACE_DEVICE uint32_t pack(float x, float y, Float16) {
    const __half2 both = __floats2half2_rn(x, y);
    return *reinterpret_cast<const uint32_t*>(&both);
}

HEADRACE_DEVICE float to_float(BFloat16 x) {
    return __uint_as_float(static_cast<uint32_t>(x.bits) << 16);
}
HEADRACE_DEVICE float to_float(Float16 x) {
    return __half2float(__ushort_as_half(x.bits));
}
HEADRACE_DEVICE BFloat16 from_float(float x, BFloat16) {
    return BFloat16{__bfloat16_as_ushort(__float2bfloat16_rn(x))};
}
HEADRACE_DEVICE Float16 from_float(float x, Float16) {
    return Float16{__half_as_ushort(__float2half_rn(x))};
}

// Threads of a warp see what each other wrote before.
HEADRACE_DEVICE void warp_barrier() {
    __syncwarp();
}
HEADRACE_DEVICE float value_of_lane(float x, int lane) {
    return __shfl_sync(0xffffffffu, x, lane);
}
HEADRACE_DEVICE float exchange(float x, int lanes_apart) {
    return __shfl_xor_sync(0xffffffffu, x, lanes_apart);
}
HEADRACE_DEVICE int exchange(int x, int lanes_apart) {
    return __shfl_xor_sync(0xffffffffu, x, lanes_apart);
}
HEADRACE_DEVICE float power_of_2(float x) {
    return exp2f(x);
}
HEADRACE_DEVICE float log_2(float x) {
    return log2f(x);
}

}  // namespace headrace::cuda
#endif

namespace headrace::cuda {

HEADRACE_DEVICE float to_float(float x) {
    return x;
}
HEADRACE_DEVICE float from_float(float x, float) {
    return x;
}

// Two neighbours in memory.
template <typename Element>
HEADRACE_DEVICE void store_pair(Element* to, float x, float y) {
    *reinterpret_cast<uint32_t*>(to) = pack(x, y, Element{});
}
HEADRACE_DEVICE void store_pair(float* to, float x, float y) {
    *reinterpret_cast<float2*>(to) = float2{x, y};
}

// Over the four lanes that share a row of sums.
HEADRACE_DEVICE float largest_of_row(float x) {
    x = fmaxf(x, exchange(x, 1));
    return fmaxf(x, exchange(x, 2));
}
HEADRACE_DEVICE float sum_of_row(float x) {
    x += exchange(x, 1);
    return x + exchange(x, 2);
}

// Over the lanes of a warp.
HEADRACE_DEVICE int smallest_of_warp(int x) {
    for (int apart = 1; apart < kWarp; apart *= 2) {
        const int other = exchange(x, apart);
        x = other < x ? other : x;
    }
    return x;
}
HEADRACE_DEVICE int largest_of_warp(int x) {
    return -smallest_of_warp(-x);
}
HEADRACE_DEVICE float largest_number_of_warp(float x) {
    for (int apart = 1; apart < kWarp; apart *= 2) x = fmaxf(x, exchange(x, apart));
    return x;
}
HEADRACE_DEVICE float sum_of_warp(float x) {
    for (int apart = 1; apart < kWarp; apart *= 2) x += exchange(x, apart);
    return x;
}

}  // namespace headrace::cuda

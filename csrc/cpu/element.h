// SPDX-License-Identifier: Apache-2.0
// The element types of tensors, and rows of them to and from the type that is computed in (fp32; fp64 for
// fp64).
#pragma once

#include <cstdint>
#include <cstring>

#include "vector.h"

namespace headrace::HEADRACE_ISA {

struct BFloat16 {
    uint16_t bits;
};
typedef _Float16 Float16;

static inline float widen(float x) {
    return x;
}
static inline double widen(double x) {
    return x;
}
static inline float widen(Float16 x) {
    return static_cast<float>(x);
}
static inline float widen(BFloat16 x) {
    const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
    float wide;
    memcpy(&wide, &bits, sizeof(wide));
    return wide;
}

template <typename Element>
struct ComputeType {
    using Type = float;
};
template <>
struct ComputeType<double> {
    using Type = double;
};

static inline void narrow(float x, float* to) {
    *to = x;
}
static inline void narrow(double x, double* to) {
    *to = x;
}
static inline void narrow(float x, Float16* to) {
    *to = static_cast<Float16>(x);
}
static inline void narrow(float x, BFloat16* to) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof(bits));
    const bool is_nan = (bits & 0x7fffffff) > 0x7f800000;
    const uint32_t rounded = bits + 0x7fff + ((bits >> 16) & 1);  // to nearest, ties to even
    to->bits = is_nan ? 0x7fc0 : static_cast<uint16_t>(rounded >> 16);
}

// to[0 .. n) = factor * from[0 .. n), then zeros up to `padded`.
template <typename Element, typename Real>
static inline void read_row(const Element* from, Real* to, int64_t n, int64_t padded, Real factor) {
    for (int64_t i = 0; i < n; ++i) to[i] = factor * widen(from[i]);
    for (int64_t i = n; i < padded; ++i) to[i] = 0;
}

template <typename Element, typename Real>
static inline void write_row(const Real* from, Element* to, int64_t n, Real factor) {
    for (int64_t i = 0; i < n; ++i) narrow(factor * from[i], to + i);
}

template <typename Element>
static inline void write_zeros(Element* to, int64_t n) {
    memset(to, 0, static_cast<size_t>(n) * sizeof(Element));
}

}  // namespace headrace::HEADRACE_ISA

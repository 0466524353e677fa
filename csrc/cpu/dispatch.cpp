// SPDX-License-Identifier: Apache-2.0
// Which of the compiled kernels this machine runs.
#include <cstdlib>
#include <cstring>

#include "attention.h"

namespace headrace {

#ifdef HEADRACE_X86
namespace avx512 {
extern const Kernels kKernels;
}
namespace avx2 {
extern const Kernels kKernels;
}
#endif
namespace baseline {
extern const Kernels kKernels;
}

namespace {

struct Candidate {
    const Kernels* kernels;
    bool can_run;
};

const Kernels& choose() {
#ifdef HEADRACE_X86
    __builtin_cpu_init();
    const bool has_avx2 =
        __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
    const Candidate candidates[] = {
        {&avx512::kKernels, has_avx2 && __builtin_cpu_supports("avx512f") &&
                                __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") &&
                                __builtin_cpu_supports("avx512vl")},
        {&avx2::kKernels, has_avx2},
        {&baseline::kKernels, true},
    };
#else
    const Candidate candidates[] = {{&baseline::kKernels, true}};
#endif
    const char* asked = std::getenv("HEADRACE_CPU");
    for (const Candidate& candidate : candidates) {
        const bool is_asked = asked == nullptr || std::strcmp(asked, candidate.kernels->name) == 0;
        if (candidate.can_run && is_asked) return *candidate.kernels;
    }
    return baseline::kKernels;
}

}  // namespace

const Kernels& kernels() {
    static const Kernels& chosen = choose();
    return chosen;
}

}  // namespace headrace

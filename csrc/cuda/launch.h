// SPDX-License-Identifier: Apache-2.0
// What the torch binding calls of the CUDA objects, which know nothing of torch. Each returns a cudaError_t
// as a number.
#pragma once

#include "../cpu/attention.h"

extern "C" {
int headrace_cuda_forward(const headrace::Forward* call, void* stream);
const char* headrace_cuda_error(int code);
}

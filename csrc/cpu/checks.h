// What the cpu backend checks beside shapes: it can afford to look at the values of every index, so that a
// bad one is an error message, never a crash.
#pragma once

#include "cpu/kernels.h"
#include "expect.h"

namespace nanovllm {

/// Every value lies in [from, limit).
void expectRange(const char* op, const char* name, const TensorView& ints, int64_t from, int64_t limit);
/// Sequence lengths, block tables and head counts stay within q, k and v.
void expectAttention(const char* op, const AttnBatch& batch, int64_t blockTableWidth);

}  // namespace nanovllm

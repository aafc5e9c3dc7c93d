// What must hold before a kernel may touch memory. TypeScript has matched shapes by name already
// (src/tensor/ops.ts); this is the last line, cheap enough to run on every call.
#pragma once

#include "tensor.h"

namespace nanovllm {

/// Throws a TensorError: "op: Expected … for name but received …."
[[noreturn]] void fail(const char* op, const char* name, const std::string& expected,
                       const std::string& received);
/// `tensor` has this rank and dtype, its last dimension is contiguous, and it has an address if it has
/// elements.
void expect(const char* op, const char* name, const TensorView& tensor, int rank, DType dtype);
/// Any float dtype will do.
void expectFloat(const char* op, const char* name, const TensorView& tensor, int rank);
/// A dense int32 vector (or matrix) of this many entries.
void expectInts(const char* op, const char* name, const TensorView& tensor, int64_t entries);
/// A dense float32 vector.
void expectVector(const char* op, const char* name, const TensorView& tensor, int64_t entries);
void expectSize(const char* op, const char* name, int64_t size, int64_t expected);

/// Parts [n, B, W], dense, whose columns side by side are at least as many as out [B, V] has; of one dtype.
void expectConcat(const TensorView& out, const TensorView& parts);

/// src/tensor/kernels.ts, SampleArgs.
struct SampleInput {
  TensorView temperature, topK, topP, minP, seed, position;
};
/// The parameters of every row of `logits` [B, V], and room for its token.
void expectSample(const TensorView& out, const TensorView& logits, const SampleInput& input);

}  // namespace nanovllm

// The op list of the CPU, as a table of functions: one table for each instruction set. Arguments have
// been checked (cpu/checks.cc) before a kernel sees them. Shapes are documented in src/tensor/kernels.ts.
//
// The one rule all kernels keep: a row's result has the same bits whatever rows are computed beside
// it. So the order of a row's additions may depend on the row's own shape and on nothing else: not on
// the number of rows, of threads, or on which task a row falls into.
#pragma once

#include <cstdint>

#include "cpu/linear_epilogue.h"
#include "cpu/memory.h"
#include "cpu/thread_pool.h"
#include "tensor.h"

namespace nanovllm {

/// What kernels run on: threads, and memory for the time of one call.
struct Context {
  ThreadPool& pool;
  Scratch& scratch;
};

/// A ragged batch of attention. Contiguous keys, paged keys, prefill and decode differ in this struct only.
struct AttnBatch {
  TensorView out, q;  // [T, Hq, D] float32
  TensorView k, v;    // [S, Hkv, D], or paged [NB, BS, Hkv, D]
  int sequences;
  const int32_t* cuSeqlensQ;   // [B+1], or null: one query a sequence
  const int32_t* cuSeqlensK;   // [B+1], or null: contextLens counts the keys
  const int32_t* contextLens;  // [B]
  const int32_t* blockTables;  // [B, MB], or null: keys are contiguous
  int64_t blockTableStride;
  float scale;
  bool causal;

  NANO_INLINE int64_t firstQuery(int b) const { return cuSeqlensQ ? cuSeqlensQ[b] : b; }
  NANO_INLINE int64_t queries(int b) const { return cuSeqlensQ ? cuSeqlensQ[b + 1] - cuSeqlensQ[b] : 1; }
  NANO_INLINE int64_t firstKey(int b) const { return blockTables ? 0 : cuSeqlensK[b]; }
  NANO_INLINE int64_t keys(int b) const {
    return cuSeqlensK ? cuSeqlensK[b + 1] - cuSeqlensK[b] : contextLens[b];
  }
  /// How many keys query i of sequence b sees: all, or with a causal mask aligned at the bottom right.
  NANO_INLINE int64_t visibleKeys(int b, int64_t i) const {
    const int64_t n = keys(b), last = causal ? n - queries(b) + i + 1 : n;
    return last < 0 ? 0 : last;
  }
  NANO_INLINE int64_t heads() const { return q.size[1]; }
  NANO_INLINE int64_t headDim() const { return q.size[2]; }
  NANO_INLINE int64_t kvHeads() const { return k.size[k.rank - 2]; }
  /// Where key j of sequence b, head h lies in `kv`, in elements. PagedAttention's one indirection.
  NANO_INLINE int64_t keyOffset(const TensorView& kv, int b, int64_t j, int64_t h) const {
    if (!blockTables) return (firstKey(b) + j) * kv.stride[0] + h * kv.stride[1];
    const int64_t block = blockTables[b * blockTableStride + j / kv.size[1]];
    return block * kv.stride[0] + j % kv.size[1] * kv.stride[1] + h * kv.stride[2];
  }
  /// Calls `body(j, offset in k, offset in v)` for keys first … first + count - 1, j counting from 0.
  template <class Body>
  NANO_INLINE void forEachKey(int b, int64_t h, int64_t first, int64_t count, const Body& body) const {
    const int64_t blockSize = blockTables ? k.size[1] : INT64_MAX;
    const int64_t kStep = k.stride[k.rank - 3], vStep = v.stride[v.rank - 3];
    for (int64_t j = 0; j < count;) {
      const int64_t kStart = keyOffset(k, b, first + j, h), vStart = keyOffset(v, b, first + j, h);
      const int64_t left = blockSize - (first + j) % blockSize, n = left < count - j ? left : count - j;
      for (int64_t i = 0; i < n; i++) body(j + i, kStart + i * kStep, vStart + i * vStep);
      j += n;
    }
  }
};

struct KernelTable {
  /// The weight's rows are `firstRow …` of a table; other ids give zeros.
  void (*embedding)(Context&, const TensorView& out, const TensorView& ids, const TensorView& weight,
                    int64_t firstRow);
  void (*linear)(Context&, const TensorView& out, const TensorView& x, const TensorView& weight,
                 const LinearEpilogue& epilogue);
  void (*rmsNorm)(Context&, const TensorView& out, const TensorView& x, const float* weight, float eps);
  void (*siluAndMul)(Context&, const TensorView& out, const TensorView& x);
  void (*rotaryEmbedding)(Context&, const TensorView& q, const TensorView& k, const int32_t* positions,
                          const TensorView& cosSin);
  void (*storeKvCache)(Context&, const TensorView& k, const TensorView& v, const TensorView& kCache,
                       const TensorView& vCache, const int32_t* slots);
  void (*gatherRows)(Context&, const TensorView& out, const TensorView& x, const int32_t* rows);
  void (*flashAttention)(Context&, const AttnBatch&);
  void (*mathAttention)(Context&, const AttnBatch&, const TensorView& k, const TensorView& v,
                        const TensorView& scores);
  /// Index of the largest of n logits, the first among equals.
  int64_t (*argmax)(const float* logits, int64_t n);
  /// Tokens of [begin, end) whose score logit/temperature + Gumbel noise could reach `best`; see
  /// cpu/sample.cc.
  int64_t (*gumbelCandidates)(const float* logits, int64_t begin, int64_t end, float inverseTemperature,
                              float best, const uint32_t* key, uint32_t position, int32_t* candidates);
};

}  // namespace nanovllm

// What the rungs of the prefill ladder share: the arguments as a kernel takes them, where a sequence's
// queries and keys lie, and the arithmetic of the online softmax.
//
// Every rung computes out = softmax(scale * Q K^T) V without ever storing a row of scores. For each query it
// keeps the largest score so far (m), the sum of e^(score - m) (l) and the unnormalised output (o). Keys that
// raise the maximum rescale l and o by e^(m_old - m_new); after the last key out = o / l (Milakov and
// Gimelshein 2018; Dao et al. 2022, algorithm 1). e^x is computed as 2^(x log2 e), since the hardware's
// instruction is 2^x; log2 e is multiplied into the scale beforehand.
#pragma once

#include "cuda/kernels.h"
#include "cuda/numbers.cuh"

namespace nanovllm::cuda {

/// One sequence of the ragged batch.
struct PrefillSequence {
  int firstQuery, queries;  // rows of q and out
  int firstKey, keys;       // rows of k and v, where they are contiguous

  /// How many keys a query sees, from key 0 on. Causal masks align at the bottom right: the last query sees
  /// all keys, also when a chunk's queries are fewer than the keys.
  __device__ int visible(int query, bool causal) const {
    return causal ? max(0, min(keys, keys - queries + query + 1)) : keys;
  }
};

/// `PrefillArgs` without the parts that only the host needs. Strides count elements.
template <class T>
struct PrefillParams {
  T* out;
  const T *q, *k, *v;
  int64_t qStride;
  int64_t kStride, kBlockStride, vStride, vBlockStride;
  const int32_t *cuSeqlensQ, *cuSeqlensK, *blockTables;
  int64_t blockTableStride;
  int heads, kvHeads, headDim, blockSize, batch;
  float scaleLog2;
  bool causal;

  explicit PrefillParams(const PrefillArgs& a)
      : out(a.out.as<T>()),
        q(a.q.as<T>()),
        k(a.k.as<T>()),
        v(a.v.as<T>()),
        qStride(a.q.stride[0]),
        kStride(a.k.stride[a.k.rank - 3]),
        kBlockStride(a.k.stride[0]),
        vStride(a.v.stride[a.v.rank - 3]),
        vBlockStride(a.v.stride[0]),
        cuSeqlensQ(a.cuSeqlensQ),
        cuSeqlensK(a.cuSeqlensK),
        blockTables(a.blockTables),
        blockTableStride(a.blockTableStride),
        heads(a.heads()),
        kvHeads(a.kvHeads()),
        headDim(a.headDim()),
        blockSize(a.blockSize()),
        batch(a.batch),
        scaleLog2(a.scale * 1.44269504f),
        causal(a.causal) {}

  __device__ PrefillSequence sequence(int b) const {
    const int q0 = cuSeqlensQ[b], k0 = cuSeqlensK[b];
    return {q0, cuSeqlensQ[b + 1] - q0, k0, cuSeqlensK[b + 1] - k0};
  }

  /// Where key `j` of sequence `b` lies in k and in v, in elements.
  struct Offsets {
    int64_t k, v;
  };
  __device__ Offsets keyOffsets(int b, int firstKey, int j) const {
    if (!blockTables) return {(int64_t{firstKey} + j) * kStride, (int64_t{firstKey} + j) * vStride};
    const int64_t block = blockTables[b * blockTableStride + j / blockSize];
    const int slot = j % blockSize;
    return {block * kBlockStride + slot * kStride, block * vBlockStride + slot * vStride};
  }

  __device__ T* outRow(int64_t token, int head) const { return out + (token * heads + head) * headDim; }
  __device__ const T* qRow(int64_t token, int head) const {
    return q + token * qStride + int64_t{head} * headDim;
  }
};

/// 2^x in one instruction. 2^0 is exactly 1 and 2^-inf exactly 0.
__device__ __forceinline__ float exp2Fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

/// The maximum that scores are taken relative to: 0 where nothing has been seen yet, since inf - inf is no
/// number.
__device__ __forceinline__ float finiteMax(float m) { return m == -INFINITY ? 0.0f : m; }

/// What a query's l and o are multiplied by when its maximum rises to `now` (already finite). Exactly 1 when
/// it stays: the subtraction comes first, so that no rounding of the products is left over. Keys that are all
/// masked thus leave every bit.
__device__ __forceinline__ float rescaleFactor(float before, float now, float scaleLog2) {
  return exp2Fast((before - now) * scaleLog2);
}

}  // namespace nanovllm::cuda

// What the rungs of the decode ladder share: their arguments as a kernel takes them, and one warp's online
// softmax.
//
// Decoding has one query a sequence, and reads every cached key and value of it: one multiplication and
// addition for each number read and each query head that shares it, where the GPU could do dozens in the
// time. So a decode kernel is a stream of memory with a little arithmetic. All three rungs compute the same;
// what changes is how much of the memory's bandwidth they use.
#pragma once

#include <cmath>
#include <type_traits>

#include "cuda/launch.cuh"
#include "cuda/numbers.cuh"

namespace nanovllm::cuda {

/// DecodeArgs for the device. Offsets and strides count elements.
template <class T>
struct Decode {
  T* out;      // [B, Hq, D], dense
  const T* q;  // [B, Hq, D]
  int64_t qRow, qHead;
  const T *k, *v;                   // [NB, BS, Hkv, D]
  int64_t block, slot, kvHead;      // their strides
  const int32_t *lengths, *tables;  // [B], [B, tableRow]
  int64_t tableRow;
  int batch, heads, kvHeads, group, dim, blockSize;
  uint64_t perBlock;  // 2^32 / blockSize, rounded up
  float scale;  // with log2(e) in it: e^x is computed as 2^(x·log2 e), for which there is an instruction

  /// Where key (and value) j of sequence b starts, without the head: the block table turns positions into
  /// blocks.
  __device__ int64_t keyStart(int b, int j) const {
    // j / blockSize as a multiplication (Granlund & Montgomery 1994): exact while j · blockSize < 2^32, and
    // much faster than the division, which would stand between every key and its address.
    const int index = static_cast<int>(j * perBlock >> 32);
    const int64_t page = tables[b * tableRow + index];
    return page * block + (j - index * blockSize) * slot;
  }
};

template <class T>
Decode<T> decodeFor(const DecodeArgs& a) {
  for (int i = 0; i < 4; i++) {
    if (a.kCache.size[i] > 1 && a.kCache.stride[i] != a.vCache.stride[i])
      throw TensorError("Key and value cache need the same strides.");
  }
  constexpr double kLog2E = 1.4426950408889634;
  return {a.out.as<T>(),
          a.q.as<T>(),
          a.q.stride[0],
          a.q.stride[1],
          a.kCache.as<T>(),
          a.vCache.as<T>(),
          a.kCache.stride[0],
          a.kCache.stride[1],
          a.kCache.stride[2],
          a.contextLens,
          a.blockTables,
          a.blockTableStride,
          a.batch(),
          a.heads(),
          a.kvHeads(),
          a.heads() / a.kvHeads(),
          a.headDim(),
          a.blockSize(),
          ((uint64_t{1} << 32) + a.blockSize() - 1) / a.blockSize(),
          static_cast<float>(a.scale * kLog2E)};
}

/// Online softmax (Milakov & Gimelshein 2018) of one query, held by a warp: the largest score so far, the sum
/// of 2^(score - max), and the values weighted by the same. Dimension i·32 + lane is `out[i]` of that lane.
template <int kPerLane>
struct WarpSoftmax {
  float max = -INFINITY, sum = 0.0f;
  float out[kPerLane] = {};

  /// Takes keys begin, begin + step, … before `end` of sequence b, and their values.
  template <class T>
  __device__ void walk(const Decode<T>& a, int b, int head, int begin, int end, int step) {
    const int lane = threadIdx.x % kWarp;
    const T* const query = a.q + b * a.qRow + head * a.qHead;
    const int64_t kvHead = head / a.group * a.kvHead;
    float q[kPerLane];
#pragma unroll
    for (int i = 0; i < kPerLane; i++) {
      const int d = i * kWarp + lane;
      q[i] = d < a.dim ? toFloat(query[d]) * a.scale : 0.0f;
    }
    for (int j = begin; j < end; j += step) {
      const int64_t at = a.keyStart(b, j) + kvHead;
      float dot = 0.0f, value[kPerLane];
#pragma unroll
      for (int i = 0; i < kPerLane; i++) {
        const int d = i * kWarp + lane;
        const bool inside = d < a.dim;
        dot += inside ? q[i] * toFloat(a.k[at + d]) : 0.0f;
        value[i] = inside ? toFloat(a.v[at + d]) : 0.0f;
      }
      add(warpSum(dot), 1.0f, value);
    }
  }

  /// Merges in what another (max, sum, out) has gathered; a single key is the state (score, 1, value). The
  /// larger of the two maxima must be finite.
  __device__ void add(float otherMax, float otherSum, const float (&other)[kPerLane]) {
    const float newMax = fmaxf(max, otherMax);
    const float mine = exp2f(max - newMax), theirs = exp2f(otherMax - newMax);
    max = newMax;
    sum = sum * mine + otherSum * theirs;
#pragma unroll
    for (int i = 0; i < kPerLane; i++) out[i] = out[i] * mine + other[i] * theirs;
  }

  /// The attention's result, and zeros where there was no key.
  template <class T>
  __device__ void write(const Decode<T>& a, int b, int head) const {
    T* const row = a.out + (int64_t{b} * a.heads + head) * a.dim;
    const float inverse = sum > 0.0f ? 1.0f / sum : 0.0f;
#pragma unroll
    for (int i = 0; i < kPerLane; i++) {
      const int d = i * kWarp + threadIdx.x % kWarp;
      if (d < a.dim) row[d] = fromFloat<T>(out[i] * inverse);
    }
  }
};

/// Calls `body(T{}, std::integral_constant<int, n>)` with n = head size / 32, rounded up: a lane's share of a
/// head.
template <class Body>
void dispatchPerLane(const DecodeArgs& a, const Body& body) {
  dispatch(a.q.dtype, [&](auto zero) {
    const int perLane = (a.headDim() + kWarp - 1) / kWarp;
    if (perLane <= 1) return body(zero, std::integral_constant<int, 1>{});
    if (perLane <= 2) return body(zero, std::integral_constant<int, 2>{});
    if (perLane <= 3) return body(zero, std::integral_constant<int, 3>{});
    if (perLane <= 4) return body(zero, std::integral_constant<int, 4>{});
    if (perLane <= 8) return body(zero, std::integral_constant<int, 8>{});
    throw TensorError(format("Decode attention takes heads of up to 256 numbers, not %d.", a.headDim()));
  });
}

}  // namespace nanovllm::cuda

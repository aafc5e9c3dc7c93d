// Merging the parts of decodePacked's attention: the warps of a block through shared memory, the blocks of a
// unit through scratch memory.
//
// A part is, for each head, the largest score, the sum of 2^(score - max) and the values weighted by the
// same. Parts are merged by scaling them to a common maximum, always in the same order, so that a result is
// the same at every run.
#pragma once

#include "cuda/attention/decode.cuh"
#include "cuda/attention/decode_mma.cuh"
#include "cuda/attention/decode_shares.cuh"

namespace nanovllm::cuda {

/// What a block leaves of a unit it shares with others. A block has up to two such pieces: the one its share
/// begins with, and the one it ends with.
struct Scratch {
  int* arrived;    // [blocks]: how many have come, for the unit which starts in block c and goes on in c + 1
  float2* maxSum;  // [blocks, 2, 8 heads]
  float* out;      // [blocks, 2, 8 heads, D]
};

/// The states of a block's warps: largest score, sum and output of every head.
template <int kWarps, int kDims>
struct alignas(16) States {
  float2 maxSum[kWarps][kMmaHeads];
  float out[kWarps][kMmaHeads][kDims + 4];  // four more, so that heads start in different banks
};

/// Merges the first `parts` states and calls `write(head, d, out[d … d+3], maxSum)` for every head and four
/// dims. The others' numbers, whatever they are from earlier, get weight 0: without a branch, all loads start
/// together.
template <int kWarps, int kDims, class Write>
__device__ void mergeStates(const States<kWarps, kDims>& states, int parts, int heads, int dim,
                            const Write& write) {
  for (int i = threadIdx.x; i < heads * dim / 4; i += blockDim.x) {
    const int head = i * 4 / dim, d = i * 4 % dim;
    float max = -INFINITY, sum = 0.0f;
    float4 out = {};
#pragma unroll
    for (int w = 0; w < kWarps; w++) max = w < parts ? fmaxf(max, states.maxSum[w][head].x) : max;
    const float base = max == -INFINITY ? 0.0f : max;  // where no part has a key
#pragma unroll
    for (int w = 0; w < kWarps; w++) {
      const float weight = w < parts ? exp2f(states.maxSum[w][head].x - base) : 0.0f;
      const float4 other = *reinterpret_cast<const float4*>(&states.out[w][head][d]);
      sum += weight * states.maxSum[w][head].y;
      out.x += weight * other.x, out.y += weight * other.y;
      out.z += weight * other.z, out.w += weight * other.w;
    }
    write(head, d, out, float2{max, sum});
  }
}

/// Merges what the blocks of a unit have left into `states`, and returns into how many: a thread has a head's
/// four dims, and where there are more threads than that, each takes every second, third … partial result.
/// Reads go to the L2 cache, where other blocks' writes are, four at a time: what takes time here is the
/// latency.
template <int kWarps, int kDims>
__device__ int mergePartials(States<kWarps, kDims>& states, const Scratch& scratch, const Owners& owners,
                             int heads, int dim) {
  constexpr int kBatch = 4;
  const int columns = heads * dim / 4, parts = min(max(kWarps * kWarp / columns, 1), kWarps);
  const int part = columns < kWarps * kWarp ? threadIdx.x / columns : 0;
  for (int i = threadIdx.x - part * columns; i < columns && part < parts; i += kWarps * kWarp) {
    const int head = i * 4 / dim, d = i * 4 % dim;
    float max = -INFINITY, sum = 0.0f;
    float4 out = {};
    for (int first = part; first < owners.count; first += parts * kBatch) {
      float2 maxSum[kBatch];
      float4 other[kBatch];
#pragma unroll
      for (int j = 0; j < kBatch; j++) {
        const int p = first + j * parts;
        const int64_t at = (int64_t{owners.first + p} * 2 + (p == 0)) * kMmaHeads + head;
        maxSum[j] = p < owners.count ? __ldcg(scratch.maxSum + at) : float2{-INFINITY, 0.0f};
        other[j] =
            p < owners.count ? __ldcg(reinterpret_cast<const float4*>(scratch.out + at * dim + d)) : float4{};
      }
      float newMax = max;
#pragma unroll
      for (int j = 0; j < kBatch; j++) newMax = fmaxf(newMax, maxSum[j].x);
      const float before = exp2f(max - newMax);
      max = newMax, sum *= before;
      out.x *= before, out.y *= before, out.z *= before, out.w *= before;
#pragma unroll
      for (int j = 0; j < kBatch; j++) {
        const float weight = exp2f(maxSum[j].x - max);
        sum += weight * maxSum[j].y;
        out.x += weight * other[j].x, out.y += weight * other[j].y;
        out.z += weight * other[j].z, out.w += weight * other[j].w;
      }
    }
    *reinterpret_cast<float4*>(&states.out[part][head][d]) = out;
    if (d == 0) states.maxSum[part][head] = {max, sum};
  }
  return min(parts, owners.count);
}

/// Stores the finished attention of four dims; zeros where there was no key.
template <class T>
__device__ void writeOutput(const Decode<T>& a, int b, int head, int d, const float4& out, float sum) {
  const float inverse = sum > 0.0f ? 1.0f / sum : 0.0f;
  alignas(8) const T four[4] = {fromFloat<T>(out.x * inverse), fromFloat<T>(out.y * inverse),
                                fromFloat<T>(out.z * inverse), fromFloat<T>(out.w * inverse)};
  T* const to = a.out + (int64_t{b} * a.heads + head) * a.dim + d;
  *reinterpret_cast<uint2*>(to) = *reinterpret_cast<const uint2*>(four);
}

/// Counts this block in, and says whether it is the last of `blocks`. What all its threads have written is
/// visible to the last block's threads. The last one's count wraps to zero: ready for the next launch.
__device__ inline bool lastToArrive(int* counter, int blocks) {
  __shared__ bool last;
  __syncthreads();
  if (threadIdx.x == 0) {
    unsigned before;
    asm volatile("atom.acq_rel.gpu.global.inc.u32 %0, [%1], %2;"
                 : "=r"(before)
                 : "l"(counter), "r"(blocks - 1)
                 : "memory");
    last = before == static_cast<unsigned>(blocks - 1);
  }
  __syncthreads();
  return last;
}

}  // namespace nanovllm::cuda

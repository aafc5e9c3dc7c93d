// What the two kernels of the sampler (sample.cu, sample_choose.cu) share: the arguments of a call, one row's
// parameters, the order of tokens, and the race of tokens by score + noise.
#pragma once

#include <cfloat>
#include <cstdint>

#include "cuda/launch.cuh"
#include "cuda/numbers.cuh"
#include "cuda/philox.cuh"

namespace nanovllm::cuda {

/// The first kernel takes the maximum of every so many neighbouring logits of a filtered row: 128 bytes, a
/// cache line.
constexpr int kGroup = 32;
/// "None of the tokens": larger than any id, so that it loses against all of them.
constexpr uint32_t kNoToken = 0xffffffffu;

/// What one block of the first kernel found in its chunk of a row. A greedy row's scores are logits (pivot
/// 0). Otherwise they are (logit - pivot) / temperature + noise with the chunk's largest logit as the pivot:
/// what can win is then near 0, where float32 is fine, at any temperature. Of a row filtered by top-p alone,
/// `mass` is the sum of exp((logit - pivot) / temperature).
struct ChunkResult {
  float pivot;
  float score;
  uint32_t id;
  uint64_t mass;
};

struct SampleRow {
  float temperature, inverseTemperature, topP, minP;
  int topK;  // 0: off
  uint2 key;
  uint32_t position;

  __device__ bool greedy() const { return temperature == 0; }
  __device__ bool filtered() const { return minP > 0 || topP < 1 || topK > 0; }
  /// Top-p needs the mass of all tokens it is taken over; here that is the whole vocabulary.
  __device__ bool topPAlone() const { return topP < 1 && topK == 0 && minP == 0; }
};

/// The arguments of both kernels.
struct SampleCall {
  const float* logits;
  int64_t stride;
  int vocabulary;
  const float *temperature, *topP, *minP;
  const int32_t *topK, *position;
  const int32_t* seed;  // [rows, 2]
  int32_t* out;
  ChunkResult* results;  // [rows, chunks]
  float* groupMax;       // [rows, groups]
  int chunks, groups;
  /// A probability relative to the likeliest token's is summed as an integer, in units of 2^-massBits.
  /// Integer sums do not depend on the order of the additions; floating-point sums over thousands of threads
  /// would.
  int massBits;

  __device__ const float* row(int b) const { return logits + b * stride; }
  __device__ SampleRow parameters(int b) const {
    const float t = temperature[b];
    const int k = topK[b];
    return {t,
            fminf(1 / t, FLT_MAX),
            topP[b],
            minP[b],
            k < vocabulary ? k : 0,
            {static_cast<uint32_t>(seed[2 * b]), static_cast<uint32_t>(seed[2 * b + 1])},
            static_cast<uint32_t>(position[b])};
  }
};

/// The second kernel: sample_choose.cu.
void chooseTokens(const Launch&, const SampleCall&, int rows);

/// Four neighbouring logits; NaN, which loses every comparison, where the row ends. Rows need not be 16-byte
/// aligned.
__device__ __forceinline__ float4 loadFour(const float* row, int id, int vocabulary, bool aligned) {
  if (aligned && id + 4 <= vocabulary) return *reinterpret_cast<const float4*>(row + id);
  const auto at = [&](int i) { return i < vocabulary ? row[i] : NAN; };
  return {at(id), at(id + 1), at(id + 2), at(id + 3)};
}
__device__ __forceinline__ bool isAligned(const float* row) {
  return reinterpret_cast<uintptr_t>(row) % 16 == 0;
}

/// An integer that orders like the number (not NaN); -0 and 0 are equal. Positive floats already order like
/// their bits.
__device__ __forceinline__ uint32_t orderKey(float x) {
  const uint32_t bits = __float_as_uint(x + 0.0f);
  return bits >> 31 ? ~bits : bits | 0x80000000u;
}
__device__ __forceinline__ float fromOrderKey(uint32_t key) {
  return __uint_as_float(key >> 31 ? key & 0x7fffffffu : ~key);
}

/// The largest logit as something to subtract: an infinity minus itself would be NaN.
__device__ __forceinline__ float finitePivot(float largest) {
  return fminf(fmaxf(largest, -FLT_MAX), FLT_MAX);
}

/// exp((logit - pivot) / temperature) in units of 2^-massBits.
__device__ __forceinline__ uint64_t massOf(float logit, float pivot, float inverseTemperature, int massBits) {
  const float weight = fminf(expf((logit - pivot) * inverseTemperature), 1);
  return __float2ull_rn(weight * static_cast<float>(uint64_t{1} << massBits));
}

/// The leader of an argmax.
struct Best {
  float score = -INFINITY;
  uint32_t id = kNoToken;

  /// Ids come in ascending order within a thread: the first of equals stays.
  __device__ __forceinline__ void consider(float s, uint32_t i) {
    if (s > score) score = s, id = i;
  }
};

__device__ __forceinline__ Best warpBest(const Best& mine) {
  const uint32_t key = orderKey(mine.score);
  const uint32_t top = __reduce_max_sync(kAllLanes, key);
  return {fromOrderKey(top), __reduce_min_sync(kAllLanes, key == top ? mine.id : kNoToken)};
}

/// The block's leader, for all threads of the first warp.
template <int kThreads>
__device__ __forceinline__ Best blockBest(const Best& mine) {
  __shared__ Best leaders[kThreads / kWarp];
  const Best leader = warpBest(mine);
  if (threadIdx.x % kWarp == 0) leaders[threadIdx.x / kWarp] = leader;
  __syncthreads();
  return threadIdx.x < kWarp ? warpBest(threadIdx.x < kThreads / kWarp ? leaders[threadIdx.x] : Best{})
                             : Best{};
}

template <int kThreads>
__device__ __forceinline__ float blockMax(float x) {
  __shared__ float largest[kThreads / kWarp];
  x = warpMax(x);
  if (threadIdx.x % kWarp == 0) largest[threadIdx.x / kWarp] = x;
  __syncthreads();
  x = largest[threadIdx.x % (kThreads / kWarp)];
  return warpMax(x);
}

/// The race: the token with the largest score + noise wins, which makes it a draw from the softmax of the
/// scores.
///
/// Two logarithms a token would take longer than reading its logit, so tokens that cannot win are turned away
/// before: those whose score is too far below `bound` for any noise, before Philox; and since -ln u >= 1 - u,
/// the noise is at most -ln(1 - u), so those with 1 - u > e^(score - bound), by one fast exponential.
struct Race {
  uint2 key;
  uint32_t position;
  /// Some token of the row, not necessarily seen here, reaches this.
  float bound;
  Best best{};

  /// Tokens id … id + 3 (id a multiple of 4). Called by whole warps.
  __device__ __forceinline__ void enter(const float (&score)[4], uint32_t id) {
    const float largest = fmaxf(fmaxf(score[0], score[1]), fmaxf(score[2], score[3]));
    const bool possible = largest >= bound - kMostNoise;
    if (!__any_sync(kAllLanes, possible)) return;
    if (possible) {
      const uint4 words = philoxWords(key, position, id / 4);
      const uint32_t word[4] = {words.x, words.y, words.z, words.w};
      uint32_t contenders = 0;
#pragma unroll
      for (int j = 0; j < 4; j++) {
        // The slack is far above the error of these floats; every contender's score is then computed
        // accurately.
        contenders |= (oneMinusUniform(word[j]) <= __expf(score[j] - bound + 1e-3f)) << j;
      }
#pragma unroll 1
      for (; contenders; contenders &= contenders - 1) {
        const int j = __ffs(contenders) - 1;
        const float low = j & 1 ? score[1] : score[0];
        const float high = j & 1 ? score[3] : score[2];
        best.consider((j & 2 ? high : low) + gumbelNoise(wordAt(words, j)), id + j);
      }
    }
    bound = warpMax(fmaxf(bound, best.score));
  }
};

}  // namespace nanovllm::cuda

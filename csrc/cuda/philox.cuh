// Random numbers on the device: the words of Philox4x32-10 (csrc/philox.h says what it is) and the Gumbel
// noise made of them.
//
// Every thread computes the noise of its own tokens from (seed, position, token id): there is no generator
// state to load, store or order, and it does not matter which thread or kernel looks at a token.
#pragma once

#include <cstdint>

#include "philox.h"  // the constants

namespace nanovllm::cuda {

/// The four words of tokens 4·block … 4·block + 3.
__device__ __forceinline__ uint4 philoxWords(uint2 key, uint32_t position, uint32_t block) {
  uint32_t c0 = position, c1 = block, c2 = 0, c3 = 0;
#pragma unroll
  for (int round = 0; round < kPhiloxRounds; round++) {
    const uint64_t p0 = static_cast<uint64_t>(kPhiloxM0) * c0;
    const uint64_t p1 = static_cast<uint64_t>(kPhiloxM1) * c2;
    c0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ key.x;
    c2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ key.y;
    c1 = static_cast<uint32_t>(p1);
    c3 = static_cast<uint32_t>(p0);
    key.x += kPhiloxW0;
    key.y += kPhiloxW1;
  }
  return {c0, c1, c2, c3};
}

/// Word j of the four; a comparison each, because registers cannot be indexed.
__device__ __forceinline__ uint32_t wordAt(uint4 words, uint32_t j) {
  const uint32_t low = j & 1 ? words.y : words.x;
  const uint32_t high = j & 1 ? words.w : words.z;
  return j & 2 ? high : low;
}

/// (word + 1/2) · 2^-32. Its relative error is that of float32 near 0 too, where it matters.
__device__ __forceinline__ float uniform(uint32_t word) {
  return fmaf(__uint2float_rn(word), 0x1p-32f, 0x1p-33f);
}

/// 1 - uniform(word), without the cancellation: the complement of the bits is the complement of the number.
__device__ __forceinline__ float oneMinusUniform(uint32_t word) { return uniform(~word); }

/// -ln(-ln u). Large noise, which is what wins, comes from u near 1. There u itself has no digits left in
/// float32, but 1 - u has all of them: ln u = log1p(-(1 - u)).
__device__ __forceinline__ float gumbelNoise(uint32_t word) {
  const float logU = word >> 31 ? log1pf(-oneMinusUniform(word)) : logf(uniform(word));
  return -logf(-logU);
}

/// What the noise can be at least and at most: u = 2^-33 and u = 1 - 2^-33, rounded outwards.
constexpr float kLeastNoise = -3.131f;
constexpr float kMostNoise = 22.88f;

}  // namespace nanovllm::cuda

// One element at a time between float32, bfloat16 and float16. Rounding is to nearest, ties to even.
// Plain C++, for loading weights and for the tails of vector loops; fast versions are in kernels/simd.h.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

namespace nanovllm {
namespace {  // every instruction set compiles its own copy: the linker must not mix them

inline uint32_t bitsOf(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return bits;
}

inline float floatOf(uint32_t bits) {
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}

/// bfloat16 is the upper half of a float32.
inline float fromBFloat16(uint16_t h) { return floatOf(static_cast<uint32_t>(h) << 16); }

inline uint16_t toBFloat16(float x) {
  const uint32_t bits = bitsOf(x);
  if ((bits & 0x7fffffff) > 0x7f800000) return static_cast<uint16_t>(bits >> 16 | 0x40);  // NaN stays NaN
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

/// Moves float16's 5 exponent bits to float32's place and corrects the bias by a multiplication, which
/// handles subnormals for free.
inline float fromFloat16(uint16_t h) {
  const uint32_t sign = static_cast<uint32_t>(h & 0x8000) << 16, magnitude = h & 0x7fff;
  if (magnitude >= 0x7c00) return floatOf(sign | 0x7f800000 | (magnitude & 0x3ff) << 13);
  return floatOf(sign | bitsOf(floatOf(magnitude << 13) * 0x1p112f));
}

inline uint16_t toFloat16(float x) {
  const uint32_t bits = bitsOf(x), magnitude = bits & 0x7fffffff;
  const uint16_t sign = static_cast<uint16_t>(bits >> 16 & 0x8000);
  if (magnitude > 0x7f800000) return sign | 0x7e00;
  if (magnitude >= 0x477ff000) return sign | 0x7c00;  // 65520 and more round to infinity
  // Subnormal: a whole number of 2^-24 steps. Adding 0.5 leaves just those steps in the mantissa,
  // rounded by the adder.
  if (magnitude < 0x38800000)
    return static_cast<uint16_t>(sign | (bitsOf(floatOf(magnitude) + 0.5f) - 0x3f000000));
  const uint32_t rebiased = magnitude - 0x38000000;
  return static_cast<uint16_t>(sign | (rebiased + 0xfff + (rebiased >> 13 & 1)) >> 13);
}

}  // namespace
}  // namespace nanovllm

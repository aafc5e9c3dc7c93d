// The exponential function, W values at a time: softmax and SiLU need millions of them.
#pragma once

#include "cpu/kernels/simd.h"

namespace nanovllm {
namespace NANO_ISA {

/// eˣ to within about one unit in the last place; 0 below -87.3, and no more than e^88.3 above.
///
/// eˣ = 2ⁿ · eʳ with n = round(x / ln 2), so that |r| ≤ ln 2 / 2, where a polynomial of degree 6 is as
/// good as float32 itself. 2ⁿ is made by writing n into the exponent bits. e⁰ is exactly 1. NaN stays NaN:
/// max() and min() return their second argument when it is one.
NANO_INLINE Vec exp(Vec x) {
  const Vec clamped = min(broadcast(88.3f), max(broadcast(-87.3f), x));
  // Adding 1.5 · 2²³ leaves no bits for a fraction: the sum's low bits are the rounded integer.
  const Vec magic = broadcast(12582912.0f);
  const Vec shifted = fma(clamped, broadcast(1.44269504f), magic);
  const Vec n = shifted - magic;
  // ln 2 in two parts: n times the first is exact.
  Vec r = fma(n, broadcast(-0.693145752f), clamped);
  r = fma(n, broadcast(-1.42860677e-6f), r);
  Vec p = broadcast(1.0f / 720);
  p = fma(p, r, broadcast(1.0f / 120));
  p = fma(p, r, broadcast(1.0f / 24));
  p = fma(p, r, broadcast(1.0f / 6));
  p = fma(p, r, broadcast(0.5f));
  p = fma(p, r, broadcast(1.0f));
  p = fma(p, r, broadcast(1.0f));
  const VecI exponent = as<VecI>(shifted) - as<VecI>(magic) + 127;
  return x < -87.3f ? Vec{} : p * as<Vec>(exponent << 23);
}

}  // namespace NANO_ISA
}  // namespace nanovllm

// Vectors for every instruction set in one notation: GCC's and Clang's vector types. `a + b` on two
// Vec adds W floats; the compiler picks the instructions, from SSE2 or NEON to AVX-512. Only what the
// notation lacks (fused multiply-add, conversions from float16) is spelled out for each set.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#include "cpu/convert.h"
#include "tensor.h"

namespace nanovllm {
namespace NANO_ISA {

/// Floats in one vector register.
#if defined(__AVX512F__)
constexpr int W = 16;
#elif defined(__AVX2__)
constexpr int W = 8;
#else
constexpr int W = 4;
#endif

typedef float Vec __attribute__((vector_size(4 * W)));
typedef int32_t VecI __attribute__((vector_size(4 * W)));
typedef uint32_t VecU __attribute__((vector_size(4 * W)));
typedef uint16_t VecH __attribute__((vector_size(2 * W)));  // W bfloat16 or float16

/// A 16-bit element's bits, typed so that overloads can tell the two formats apart.
struct BFloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};

/// The same bits as another vector type.
template <class To, class From>
NANO_INLINE To as(From v) {
  To out;
  static_assert(sizeof out == sizeof v, "as() keeps the size");
  memcpy(&out, &v, sizeof out);
  return out;
}

template <class V>
NANO_INLINE V loadBits(const void* p) {
  V v;
  memcpy(&v, p, sizeof v);
  return v;
}

/// x in every lane. (Subtracting +0 changes no value, not even -0, so it compiles to a broadcast.)
NANO_INLINE Vec broadcast(float x) { return x - Vec{}; }
NANO_INLINE VecU broadcastBits(uint32_t x) { return x | VecU{}; }

NANO_INLINE Vec load(const float* p) { return loadBits<Vec>(p); }
NANO_INLINE void store(float* p, Vec v) { memcpy(p, &v, sizeof v); }

NANO_INLINE Vec max(Vec a, Vec b) { return a > b ? a : b; }
NANO_INLINE Vec min(Vec a, Vec b) { return a < b ? a : b; }

/// a·b + c, rounded once where the hardware can.
NANO_INLINE Vec fma(Vec a, Vec b, Vec c) {
#if defined(__AVX512F__)
  return as<Vec>(_mm512_fmadd_ps(as<__m512>(a), as<__m512>(b), as<__m512>(c)));
#elif defined(__AVX2__)
  return as<Vec>(_mm256_fmadd_ps(as<__m256>(a), as<__m256>(b), as<__m256>(c)));
#elif defined(__aarch64__)
  return as<Vec>(vfmaq_f32(as<float32x4_t>(c), as<float32x4_t>(a), as<float32x4_t>(b)));
#else
  return a * b + c;
#endif
}

/// Sum of all lanes, by halves: the order depends on W only.
NANO_INLINE float sum(Vec v) {
  float lanes[W];
  store(lanes, v);
  for (int half = W / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; i++) lanes[i] += lanes[i + half];
  }
  return lanes[0];
}

/// The largest lane.
NANO_INLINE float maxLane(Vec v) {
#if defined(__AVX512F__)
  return _mm512_reduce_max_ps(as<__m512>(v));
#else
  float best = v[0];
  for (int i = 1; i < W; i++) best = v[i] > best ? v[i] : best;
  return best;
#endif
}

// --- 16-bit formats -------------------------------------------------------------------------------

NANO_INLINE Vec load(const BFloat16* p) {
  return as<Vec>(__builtin_convertvector(loadBits<VecH>(p), VecU) << 16);
}

NANO_INLINE Vec load(const Float16* p) {
#if defined(__AVX512F__)
  return as<Vec>(_mm512_cvtph_ps(loadBits<__m256i>(p)));
#elif defined(__AVX2__)
  return as<Vec>(_mm256_cvtph_ps(loadBits<__m128i>(p)));
#elif defined(__aarch64__)
  return as<Vec>(vcvt_f32_f16(loadBits<float16x4_t>(p)));
#else
  Vec v;
  for (int i = 0; i < W; i++) v[i] = fromFloat16(p[i].bits);
  return v;
#endif
}

/// To bfloat16 bits in the lower half of each lane: to nearest, ties to even; NaN stays NaN.
NANO_INLINE VecU roundToBFloat16(Vec v) {
  const VecU bits = as<VecU>(v);
  const VecU rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
  return (bits & 0x7fffffff) > 0x7f800000 ? (bits >> 16 | 0x40) : rounded;
}

NANO_INLINE void store(BFloat16* p, Vec v) {
  const VecH half = __builtin_convertvector(roundToBFloat16(v), VecH);
  memcpy(p, &half, sizeof half);
}

NANO_INLINE void store(Float16* p, Vec v) {
#if defined(__AVX512F__)
  const __m256i half = _mm512_cvtps_ph(as<__m512>(v), _MM_FROUND_TO_NEAREST_INT);
  memcpy(p, &half, sizeof half);
#elif defined(__AVX2__)
  const __m128i half = _mm256_cvtps_ph(as<__m256>(v), _MM_FROUND_TO_NEAREST_INT);
  memcpy(p, &half, sizeof half);
#else
  for (int i = 0; i < W; i++) p[i].bits = toFloat16(v[i]);
#endif
}

// --- the last few elements of a row ---------------------------------------------------------------

/// The first n < W elements; other lanes are zero.
template <class T>
NANO_INLINE Vec loadPart(const T* p, int64_t n) {
  T part[W] = {};
  memcpy(part, p, n * sizeof(T));
  return load(part);
}

template <class T>
NANO_INLINE void storePart(T* p, Vec v, int64_t n) {
  T part[W];
  store(part, v);
  memcpy(p, part, n * sizeof(T));
}

/// The count of a whole vector, as a type: loops that get it are compiled without the case of a tail.
struct WholeVec {
  constexpr operator int64_t() const { return W; }
};

/// Calls `body(i, n)` for each vector of a row of `count`: n is WholeVec{}, but for the last few elements
/// their number. Bodies pass it on to loadN and storeN.
template <class Body>
NANO_INLINE void forEachVec(int64_t count, const Body& body) {
  int64_t i = 0;
  for (; i + W <= count; i += W) body(i, WholeVec{});
  if (i < count) body(i, count - i);
}

template <class T>
NANO_INLINE Vec loadN(const T* p, WholeVec) {
  return load(p);
}
template <class T>
NANO_INLINE Vec loadN(const T* p, int64_t n) {
  return n == W ? load(p) : loadPart(p, n);
}

template <class T>
NANO_INLINE void storeN(T* p, Vec v, WholeVec) {
  store(p, v);
}
template <class T>
NANO_INLINE void storeN(T* p, Vec v, int64_t n) {
  n == W ? store(p, v) : storePart(p, v, n);
}

/// Calls `body(T*)` with a null pointer of the element type that `dtype` names.
template <class Body>
NANO_INLINE void withFloatType(DType dtype, const Body& body) {
  if (dtype == DType::kBFloat16) {
    body(static_cast<BFloat16*>(nullptr));
  } else if (dtype == DType::kFloat16) {
    body(static_cast<Float16*>(nullptr));
  } else {
    body(static_cast<float*>(nullptr));
  }
}

}  // namespace NANO_ISA
}  // namespace nanovllm

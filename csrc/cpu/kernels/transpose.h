// W rows of W floats, transposed in registers: how queries get into the lanes of vectors, and results out.
#pragma once

#include "cpu/kernels/simd.h"

namespace nanovllm {
namespace NANO_ISA {

#if defined(__AVX512F__)
/// 16 × 16: pairs, then quadruples, then quarters of rows change places.
NANO_INLINE void transpose(Vec (&rows)[W]) {
  __m512i r[16], t[16];
  for (int i = 0; i < 16; i++) r[i] = as<__m512i>(rows[i]);
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {
    r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
    r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
    r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
    r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
  for (int i = 0; i < 4; i++) {
    t[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
    t[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd);
    t[i + 8] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
    t[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xdd);
  }
  for (int i = 0; i < 4; i++) {
    rows[i] = as<Vec>(_mm512_shuffle_i32x4(t[i], t[i + 8], 0x88));
    rows[i + 8] = as<Vec>(_mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd));
    rows[i + 4] = as<Vec>(_mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0x88));
    rows[i + 12] = as<Vec>(_mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0xdd));
  }
}
#else
NANO_INLINE void transpose(Vec (&rows)[W]) {
  float from[W][W], to[W][W];
  memcpy(from, rows, sizeof from);
  for (int i = 0; i < W; i++) {
    for (int j = 0; j < W; j++) to[j][i] = from[i][j];
  }
  memcpy(rows, to, sizeof to);
}
#endif

}  // namespace NANO_ISA
}  // namespace nanovllm

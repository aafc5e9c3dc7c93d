// out[M, N] = x[M, K] · W[N, K]ᵀ in float32 arithmetic, for weights of any dtype in the packed layout.
//
// A block of R rows times P panels (16 outputs each) keeps its R · P · 16 sums in registers, walks down
// k once, and touches memory only to read: weights are loaded once for R rows, activations broadcast
// once for P panels. Every sum adds its products in the order of k whatever R and P are, which is why
// blocking is free to differ between one row and five hundred.
#pragma once

#include "cpu/kernels/linear_finish.h"
#include "cpu/pack.h"

namespace nanovllm {
namespace NANO_ISA {

/// Vectors that make up one panel.
constexpr int kVecs = PackedShape::kPanel / W;

/// Both values of k and k + 1 for W outputs. `p` points at k's unit of the first of them, k even.
NANO_INLINE void loadTwo(const float* p, Vec& even, Vec& odd) {
  even = load(p);
  odd = load(p + PackedShape::kPanel);
}
NANO_INLINE void loadTwo(const Float16* p, Vec& even, Vec& odd) {
  even = load(p);
  odd = load(p + PackedShape::kPanel);
}
/// A bfloat16 pair fills 32 bits: the low half moved up is the float of k, the high half that of k + 1.
NANO_INLINE void loadTwo(const BFloat16* p, Vec& even, Vec& odd) {
  const VecU pairs = loadBits<VecU>(p);
  even = as<Vec>(pairs << 16);
  odd = as<Vec>(pairs & 0xffff0000u);
}

/// Elements between the first of a panel's vectors and the next (at the same k).
template <class T>
constexpr int kVecStride = W;
template <>
inline constexpr int kVecStride<BFloat16> = 2 * W;

/// R rows × P panels. `x` steps by `xStride` a row, `out` by `outStride`; panels are `panelElements` apart.
/// `columns` is how many outputs of the P panels exist.
template <class T, int R, int P>
void panelBlock(float* out, int64_t outStride, const float* x, int64_t xStride, const T* weight,
                int64_t panelElements, int64_t k, const LinearEpilogue& epilogue, int64_t columns) {
  constexpr int V = P * kVecs;
  Vec sums[R][V] = {};
  const auto step = [&](int64_t i, bool hasOdd) {
    Vec even[V], odd[V];
    for (int v = 0; v < V; v++) {
      loadTwo(weight + v / kVecs * panelElements + i * PackedShape::kPanel + v % kVecs * kVecStride<T>,
              even[v], odd[v]);
    }
    for (int r = 0; r < R; r++) {
      const Vec a = broadcast(x[r * xStride + i]);
      for (int v = 0; v < V; v++) sums[r][v] = fma(a, even[v], sums[r][v]);
    }
    if (!hasOdd) return;
    for (int r = 0; r < R; r++) {
      const Vec a = broadcast(x[r * xStride + i + 1]);
      for (int v = 0; v < V; v++) sums[r][v] = fma(a, odd[v], sums[r][v]);
    }
  };
  for (int64_t i = 0; i + 1 < k; i += 2) step(i, true);
  if (k % 2 == 1) step(k - 1, false);

  for (int v = 0; v < V; v++) {
    const int64_t n = columns - v * W < W ? columns - v * W : W;
    if (n <= 0) break;
    for (int r = 0; r < R; r++) finish(out + r * outStride + v * W, sums[r][v], epilogue.from(v * W), n);
  }
}

}  // namespace NANO_ISA
}  // namespace nanovllm

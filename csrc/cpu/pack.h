// How weight matrices lie in memory, and how checkpoint rows get there.
#pragma once

#include <cstdint>

#include "cpu/thread_pool.h"
#include "tensor.h"

namespace nanovllm {

/// A weight W[N, K] is cut into panels of 16 outputs. Within a panel all 16 outputs' values for one
/// k lie side by side, so that one vector load serves 16 outputs, and a panel is read front to back:
///
///   float32, float16   [N/16][K][16 n]           one k, sixteen n
///   bfloat16           [N/16][K/2][16 n][2 k]    pairs of k inside (Intel calls it VNNI order): the
///                      dot-product instructions multiply pairs, and 16 such rows are one AMX tile.
///
/// N is padded to 16 and K to 32 with zeros, which is what makes the last tile safe to read.
struct PackedShape {
  int64_t n, k;
  DType dtype;

  static constexpr int kPanel = 16;
  static constexpr int kPadding = 32;
  NANO_INLINE PackedShape(int64_t n, int64_t k, DType dtype) : n(n), k(k), dtype(dtype) {}
  NANO_INLINE explicit PackedShape(const TensorView& w) : PackedShape(w.size[0], w.size[1], w.dtype) {}

  NANO_INLINE int64_t panels() const { return (n + kPanel - 1) / kPanel; }
  NANO_INLINE int64_t paddedK() const { return (k + kPadding - 1) / kPadding * kPadding; }
  NANO_INLINE int64_t panelElements() const { return paddedK() * kPanel; }

  /// Position of W[row, col], in elements.
  NANO_INLINE int64_t offset(int64_t row, int64_t col) const {
    const int64_t panel = row / kPanel * panelElements(), lane = row % kPanel;
    if (dtype == DType::kBFloat16) return panel + (col & ~int64_t{1}) * kPanel + lane * 2 + (col & 1);
    return panel + col * kPanel + lane;
  }
};

/// Writes `rows` rows of K little-endian `source` values into rows `firstRow …` of `weight`: a packed
/// matrix, a strided one, or (rank 1) elements of a vector. Converts to the weight's dtype.
void loadRows(ThreadPool& pool, const TensorView& weight, int64_t firstRow, int64_t rows, const char* bytes,
              DType source);

}  // namespace nanovllm

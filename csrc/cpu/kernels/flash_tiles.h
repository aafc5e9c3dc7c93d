// The two matrix products of flash attention in float32, for a cache of any dtype.
#pragma once

#include <type_traits>

#include "cpu/kernels/flash_task.h"
#include "cpu/kernels/transpose.h"

namespace nanovllm {
namespace NANO_ISA {

/// Holds one tile of K and V as float32 and the task's queries, transposed. `Stride`: floats between
/// the rows of K (and V), at least the head size. A constant, because then all rows of a block are
/// reached from one address register.
template <int Stride>
class FlashTiles {
 public:
  static int64_t bytes(int64_t) { return (2 * kTileKeys * Stride + kTaskRows * Stride) * sizeof(float); }

  FlashTiles(int64_t dim, char* scratch)
      : dim_(dim),
        keys_(reinterpret_cast<float*>(scratch)),
        values_(keys_ + kTileKeys * Stride),
        queries_(values_ + kTileKeys * Stride) {}

  /// Group g's queries (null: zeros), transposed to [dim][query].
  void setQueries(int64_t g, const float* const (&queries)[kLanes]) const {
    forEachVec(dim_, [&](int64_t d, auto n) {
      Vec rows[kLanes];
      for (int lane = 0; lane < kLanes; lane++)
        rows[lane] = queries[lane] ? loadN(queries[lane] + d, n) : Vec{};
      transpose(rows);
      for (int i = 0; i < W; i++) store(queries_ + (g * Stride + d + i) * kLanes, rows[i]);
    });
  }

  /// Keys and values `first … first + count - 1` of sequence b; the rest of the tile becomes zeros, so
  /// that whatever lies in memory behind a sequence cannot turn 0 · value into NaN.
  void loadKeys(const AttnBatch& a, int b, int64_t kvHead, int64_t first, int64_t count) const {
    withFloatType(a.k.dtype, [&](auto* type) {
      using T = std::remove_pointer_t<decltype(type)>;
      a.forEachKey(b, kvHead, first, count, [&](int64_t j, int64_t kOffset, int64_t vOffset) {
        copy(keys_ + j * Stride, a.k.as<T>() + kOffset);
        copy(values_ + j * Stride, a.v.as<T>() + vOffset);
      });
      for (int64_t j = count; j < kTileKeys; j++) {
        copy<T>(keys_ + j * Stride, nullptr);
        copy<T>(values_ + j * Stride, nullptr);
      }
    });
  }

  /// scores[key][query] = K · Qᵀ
  void multiplyKeys(int64_t g, float* scores) const {
    const float* const q = queries_ + g * Stride * kLanes;
    for (int64_t j = 0; j < kTileKeys; j += kBlock) {
      const float* const k = keys_ + j * Stride;
      Vec sums[kBlock] = {};
      for (int64_t d = 0; d < dim_; d++) {
        const Vec qd = load(q + d * kLanes);
        for (int r = 0; r < kBlock; r++) sums[r] = fma(broadcast(k[r * Stride + d]), qd, sums[r]);
      }
      for (int r = 0; r < kBlock; r++) store(scores + (j + r) * kLanes, sums[r]);
    }
  }

  /// out[dim][query] = out · decay + Vᵀ · weights[key][query]
  void addValues(const float* weights, Vec decay, float* out) const {
    for (int64_t d = 0; d < dim_; d += kBlock) {
      Vec sums[kBlock];
      for (int r = 0; r < kBlock; r++) sums[r] = load(out + (d + r) * kLanes) * decay;
      for (int64_t j = 0; j < kTileKeys; j++) {
        const Vec p = load(weights + j * kLanes);
        const float* const v = values_ + j * Stride + d;
        for (int r = 0; r < kBlock; r++) sums[r] = fma(broadcast(v[r]), p, sums[r]);
      }
      for (int r = 0; r < kBlock; r++) store(out + (d + r) * kLanes, sums[r]);
    }
  }

 private:
  /// Sums kept in registers: enough to keep the adders busy, few enough to fit.
  static constexpr int kBlock = W == 16 ? 16 : 8;

  /// One row as float32, padded with zeros to a multiple of kBlock; all zeros for null.
  template <class T>
  void copy(float* to, const T* from) const {
    if (from) {
      forEachVec(dim_, [&](int64_t i, auto n) { store(to + i, loadN(from + i, n)); });
    } else {
      for (int64_t i = 0; i < dim_; i += W) store(to + i, Vec{});
    }
    for (int64_t i = (dim_ + W - 1) / W * W; i % kBlock != 0; i += W) store(to + i, Vec{});
  }

  int64_t dim_;
  float *keys_, *values_, *queries_;
};

}  // namespace NANO_ISA
}  // namespace nanovllm

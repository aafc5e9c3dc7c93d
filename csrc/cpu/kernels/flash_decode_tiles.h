// The two matrix products of flash_decode.h in float32, for a cache of any dtype. Sums run in the same
// order as in flash_tiles.h: over dims for a score, over keys for an output.
#pragma once

#include <type_traits>

#include "cpu/kernels/flash_decode.h"

namespace nanovllm {
namespace NANO_ISA {

class DecodeTiles {
 public:
  static int64_t bytes(int64_t dim, int64_t heads) {
    return (kTileKeys + kFewRows * heads) * paddedDim(dim) * sizeof(float);
  }

  DecodeTiles(const AttnBatch& a, int64_t rows, char* scratch)
      : dim_(a.headDim()),
        rows_(rows),
        keys_(reinterpret_cast<float*>(scratch)),
        queries_(keys_ + kTileKeys * paddedDim(dim_)) {}

  void setQuery(int64_t head, int64_t row, const float* q) const {
    memcpy(query(head, row), q, dim_ * sizeof(float));
  }

  /// scores[row][key]
  void multiplyKeys(const TileRows& tile, const TensorView& k, int64_t head, float* scores) const {
    withFloatType(k.dtype, [&](auto* type) {
      using T = std::remove_pointer_t<decltype(type)>;
      transposeKeys<T>(tile, head * k.stride[k.rank - 2]);
    });
    constexpr int kVecs = kTileKeys / W;
    for (int64_t r = 0; r < rows_; r += 2) {
      // A second row, so that additions of one can run while those of the other wait. Maybe the same.
      const int64_t other = r + 1 < rows_ ? r + 1 : r;
      const float *const q0 = query(head, r), *const q1 = query(head, other);
      Vec sums[2][kVecs] = {};
      for (int64_t d = 0; d < dim_; d++) {
        for (int i = 0; i < kVecs; i++) {
          const Vec key = load(keys_ + d * kTileKeys + i * W);
          sums[0][i] = fma(key, broadcast(q0[d]), sums[0][i]);
          sums[1][i] = fma(key, broadcast(q1[d]), sums[1][i]);
        }
      }
      for (int i = 0; i < kVecs; i++) {
        store(scores + r * kTileKeys + i * W, sums[0][i]);
        store(scores + other * kTileKeys + i * W, sums[1][i]);
      }
    }
  }

  /// out[row][dim] = out · decay + weights[row][key] · V; rows of `out` are `stride` apart.
  void addValues(const TileRows& tile, const TensorView& v, int64_t head, const float* weights,
                 const float* decay, float* out, int64_t stride) const {
    withFloatType(v.dtype, [&](auto* type) {
      using T = std::remove_pointer_t<decltype(type)>;
      const int64_t offset = head * v.stride[v.rank - 2];
      for (int64_t r = 0; r < rows_; r++) {
        float* const to = out + r * stride;
        const float* const p = weights + r * kTileKeys;
        int64_t d = 0;
        for (; d + kBlock * W <= dim_; d += kBlock * W) {
          Vec sums[kBlock];
          for (int i = 0; i < kBlock; i++) sums[i] = load(to + d + i * W) * decay[r];
          for (int64_t j = 0; j < tile.count; j++) {
            const T* const row = reinterpret_cast<const T*>(tile.v[j]) + offset + d;
            for (int i = 0; i < kBlock; i++) sums[i] = fma(load(row + i * W), broadcast(p[j]), sums[i]);
          }
          for (int i = 0; i < kBlock; i++) store(to + d + i * W, sums[i]);
        }
        forEachVec(dim_ - d, [&](int64_t i, auto n) {
          Vec sum = load(to + d + i) * decay[r];
          for (int64_t j = 0; j < tile.count; j++) {
            const T* const row = reinterpret_cast<const T*>(tile.v[j]) + offset + d + i;
            sum = fma(loadN(row, n), broadcast(p[j]), sum);
          }
          store(to + d + i, sum);
        });
      }
    });
  }

 private:
  static constexpr int kBlock = W == 4 ? 4 : 8;  // sums kept in registers

  float* query(int64_t head, int64_t row) const {
    return queries_ + (head * kFewRows + row) * paddedDim(dim_);
  }

  /// keys_[dim][key]; zeros where the sequence has ended.
  template <class T>
  void transposeKeys(const TileRows& tile, int64_t offset) const {
    for (int64_t j = 0; j < kTileKeys; j += W) {
      forEachVec(dim_, [&](int64_t d, auto n) {
        Vec block[W];
        for (int i = 0; i < W; i++) {
          block[i] =
              j + i < tile.count ? loadN(reinterpret_cast<const T*>(tile.k[j + i]) + offset + d, n) : Vec{};
        }
        transpose(block);
        for (int i = 0; i < n; i++) store(keys_ + (d + i) * kTileKeys + j, block[i]);
      });
    }
  }

  int64_t dim_, rows_;
  float *keys_, *queries_;
};

}  // namespace NANO_ISA
}  // namespace nanovllm

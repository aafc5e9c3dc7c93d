// out[M, N] = x[M, K] · W[N, K]ᵀ on Intel's matrix units (AMX): one instruction multiplies a tile of 16 × 32
// bfloat16 by one of 32 × 16 and adds into 16 × 16 float32 sums.
//
// Activations are rounded to bfloat16 (as a GPU's tensor cores would have them) and packed in tile
// order; weights lie in tile order already (cpu/pack.h). Each sum adds its products in the order of k,
// tile by tile, in hardware: the same for a row alone and among others, so decoding uses the matrix
// units too. It is bound by memory there, and a tile load reads memory as well as any other.
#pragma once

#if defined(__AMX_BF16__)

#include "cpu/kernels/amx.h"
#include "cpu/kernels/linear_finish.h"
#include "cpu/kernels/rows.h"
#include "cpu/pack.h"

namespace nanovllm {
namespace NANO_ISA {

class AmxLinear {
 public:
  AmxLinear(Context& ctx, const TensorView& out, const TensorView& x, const TensorView& weight,
            const LinearEpilogue& epilogue)
      : out_(out), weight_(weight.data), epilogue_(epilogue), shape_(weight), rows_(x.size[0]) {
    kTiles_ = shape_.paddedK() / 32;
    mTiles_ = (rows_ + 15) / 16;
    packed_ = ctx.scratch.reserve(mTiles_ * kTiles_ * kTileBytes);
    BFloat16* const packed = reinterpret_cast<BFloat16*>(packed_);
    forEachRow(ctx, rows_, shape_.k, [&](int64_t r) { packRow(packed, x.f32() + r * x.stride[0], r); });
  }

  /// All rows of panels [begin, end).
  void operator()(int64_t begin, int64_t end) const {
    const TileScope tiles(rows_ < 16 ? rows_ : 16);
    const int64_t mBlock = kBlockBytes / (kTiles_ * kTileBytes) / 2 * 2 + 2;
    for (int64_t m0 = 0; m0 < mTiles_; m0 += mBlock) {
      const int64_t m1 = m0 + mBlock < mTiles_ ? m0 + mBlock : mTiles_;
      int64_t panel = begin;
      // Few rows: memory is the bound, and one panel after the other is the stream it likes best.
      for (; mTiles_ > 1 && panel + 2 <= end; panel += 2) column<2>(panel, m0, m1);
      for (; panel < end; panel++) column<1>(panel, m0, m1);
    }
  }

 private:
  /// Packed activations that stay in a core's L2 cache while panel after panel is multiplied with them.
  static constexpr int64_t kBlockBytes = 1 << 20;
  /// How far to read ahead in the stream of weights that decoding is: near, measured to be best.
  static constexpr int64_t kStreamAhead = 2 << 10;

  /// Row r of x as bfloat16, in tiles [M/16][K/32][16 rows][32 k].
  void packRow(BFloat16* packed, const float* x, int64_t r) const {
    BFloat16* const tileRow = packed + (r / 16 * kTiles_ * 16 + r % 16) * 32;
    for (int64_t k = 0; k < shape_.paddedK(); k += 16) {
      const int64_t n = shape_.k - k < 16 ? shape_.k - k : 16;
      store(tileRow + k / 32 * 512 + k % 32, n > 0 ? loadN(x + k, n) : Vec{});
    }
  }

  /// What the next multiplications will need from memory, fetched a little at every step of this one.
  struct Ahead {
    const char* weights;   // the next panels
    int64_t bytesPerStep;  // so that they are there when this column is done
    const char* out;       // where the sums will go: asked for early, since a store must own its line
    int64_t outRowBytes, outRows;

    NANO_INLINE void fetch(int64_t step) const {
      for (int64_t i = 0; i < bytesPerStep; i += 64)
        _mm_prefetch(weights + step * bytesPerStep + i, _MM_HINT_T1);
      if (step < outRows) {
        __builtin_prefetch(out + step * outRowBytes, 1);
        __builtin_prefetch(out + step * outRowBytes + 64, 1);
      }
    }
  };

  /// N panels (1 or 2) times row tiles [m0, m1).
  template <int N>
  void column(int64_t panel, int64_t m0, int64_t m1) const {
    const int64_t blocks = (m1 - m0 + 1) / 2, panelBytes = kTiles_ * kTileBytes;
    Ahead ahead;
    ahead.weights = weight_ + panel * panelBytes + (mTiles_ > 1 ? N * panelBytes : kStreamAhead);
    ahead.bytesPerStep = (N * kTileBytes / blocks + 63) / 64 * 64;
    ahead.outRowBytes = out_.stride[0] * sizeof(float);
    for (int64_t m = m0; m < m1; m += 2) {
      ahead.out = reinterpret_cast<const char*>(out_.f32() + m * 16 * out_.stride[0] + panel * 16);
      ahead.outRows = rows_ - m * 16 < 32 ? rows_ - m * 16 : 32;
      m + 2 <= m1 ? block<2, N>(m, panel, ahead) : block<1, N>(m, panel, ahead);
      ahead.weights += ahead.bytesPerStep * kTiles_;
    }
  }

  template <int M, int N>
  void block(int64_t mTile, int64_t panel, const Ahead& ahead) const {
    const int64_t step = kTiles_ * kTileBytes;
    alignas(64) float sums[M * N][256];
    multiply<M, N>(packed_ + mTile * step, weight_ + panel * step, step, kTiles_, sums, ahead);
    for (int i = 0; i < M; i++) {
      for (int j = 0; j < N; j++) store16(sums[i * N + j], (mTile + i) * 16, (panel + j) * 16);
    }
  }

  /// Sums of M × N tiles in tile registers 0 … 3, activations in 4 and 5, weights in 6 and 7.
  template <int M, int N>
  NANO_INLINE static void multiply(const char* a, const char* b, int64_t step, int64_t kTiles,
                                   float (*sums)[256], const Ahead& ahead) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int64_t k = 0; k < kTiles; k++, a += kTileBytes, b += kTileBytes) {
      ahead.fetch(k);
      _tile_loadd(6, b, 64);
      _tile_loadd(4, a, 64);
      _tile_dpbf16ps(0, 4, 6);
      if constexpr (N == 2) _tile_loadd(7, b + step, 64);
      if constexpr (N == 2) _tile_dpbf16ps(1, 4, 7);
      if constexpr (M == 2) _tile_loadd(5, a + step, 64);
      if constexpr (M == 2) _tile_dpbf16ps(2, 5, 6);
      if constexpr (M == 2 && N == 2) _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, sums[0], 64);
    if constexpr (N == 2) _tile_stored(1, sums[1], 64);
    if constexpr (M == 2) _tile_stored(2, sums[N], 64);
    if constexpr (M == 2 && N == 2) _tile_stored(3, sums[3], 64);
  }

  /// One 16 × 16 tile of sums to `out`, as far as rows and columns exist.
  void store16(const float* sums, int64_t row, int64_t column) const {
    const int64_t rows = rows_ - row < 16 ? rows_ - row : 16;
    const int64_t columns = shape_.n - column < 16 ? shape_.n - column : 16;
    float* const to = out_.f32() + row * out_.stride[0] + column;
    for (int64_t r = 0; r < rows; r++)
      finish(to + r * out_.stride[0], load(sums + r * 16), epilogue_.from(column), columns);
  }

  const TensorView& out_;
  const char* weight_;
  char* packed_;
  const LinearEpilogue epilogue_;
  PackedShape shape_;
  int64_t rows_, kTiles_, mTiles_;
};

}  // namespace NANO_ISA
}  // namespace nanovllm

#endif

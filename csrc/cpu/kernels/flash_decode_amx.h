// The two matrix products of flash_decode.h on matrix units, for a bfloat16 cache. Compared to
// flash_tiles_amx.h the second one has changed sides, which spares transposing V for two queries:
//   Sᵀ[key][row] = K[key][dim] · Qᵀ[dim][row]      K straight out of the cache
//   O[row][dim] += P[row][key] · V[key][dim]       V with pairs of keys interleaved
// The hardware adds the products of a sum in the order of dims or keys on either side: same bits.
#pragma once

#if defined(__AMX_BF16__)

#include "cpu/kernels/amx.h"
#include "cpu/kernels/flash_decode.h"

namespace nanovllm {
namespace NANO_ISA {

/// Same interface as DecodeTiles. Head sizes are padded to 32 with zeros.
class DecodeTilesAmx {
 public:
  static int64_t bytes(int64_t dim, int64_t heads) {
    return (paddedDim(dim) / 32 * (4 + heads) + 3) * kTileBytes;
  }

  DecodeTilesAmx(const AttnBatch& a, int64_t rows, char* scratch)
      : dim_(a.headDim()),
        steps_(paddedDim(dim_) / 32),
        rows_(rows),
        inPlace_(dim_ % 32 == 0 && (!a.blockTables || a.k.size[1] % 16 == 0)),
        tiles_({{16, 4 * rows},
                {16, 4 * rows},
                {16, 4 * rows},
                {16, 64},
                {16, 64},
                {rows, 64},
                {rows, 64},
                {rows, 64}}),
        keys_(scratch),
        values_(keys_ + 2 * steps_ * kTileBytes),
        weights_(values_ + 2 * steps_ * kTileBytes),
        sums_(weights_ + kTileBytes),
        queries_(sums_ + 2 * kTileBytes) {}

  /// As a column of right operands [dim / 32][16 pairs of dims][row][2].
  void setQuery(int64_t head, int64_t row, const float* q) const {
    for (int64_t i = 0; i < steps_; i++) {
      BFloat16 half[32] = {};
      const int64_t left = dim_ - i * 32;
      forEachVec(left < 32 ? left : 32,
                 [&](int64_t d, auto n) { storeN(half + d, loadN(q + i * 32 + d, n), n); });
      for (int pair = 0; pair < 16; pair++)
        memcpy(queries_ + (head * steps_ + i) * kTileBytes + pair * 64 + row * 4, half + 2 * pair, 4);
    }
  }

  /// scores[row][key]
  void multiplyKeys(const TileRows& tile, const TensorView& k, int64_t head, float* scores) const {
    const char *low, *high;  // keys 0 … 15 and 16 … 31
    int64_t keyStep, dimStep;
    if (inPlace_ && tile.count == kTileKeys) {
      const int64_t offset = head * k.stride[k.rank - 2] * 2;
      low = tile.k[0] + offset, high = tile.k[16] + offset;
      keyStep = k.stride[k.rank - 3] * 2, dimStep = 64;
    } else {
      copyKeys(tile, head * k.stride[k.rank - 2]);
      low = keys_, high = keys_ + steps_ * kTileBytes;
      keyStep = 64, dimStep = kTileBytes;
    }
    _tile_zero(0);
    _tile_zero(1);
    for (int64_t i = 0; i < steps_; i++) {
      _tile_loadd(2, queries_ + (head * steps_ + i) * kTileBytes, 64);
      _tile_loadd(3, low + i * dimStep, keyStep);
      _tile_dpbf16ps(0, 3, 2);
      _tile_loadd(4, high + i * dimStep, keyStep);
      _tile_dpbf16ps(1, 4, 2);
    }
    _tile_stored(0, sums_, 64);
    _tile_stored(1, sums_ + kTileBytes, 64);
    const __m512i lanes = _mm512_mullo_epi32(
        _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0), _mm512_set1_epi32(16));
    for (int64_t r = 0; r < rows_; r++) {
      const float* const column = reinterpret_cast<const float*>(sums_) + r;
      _mm512_storeu_ps(scores + r * kTileKeys, _mm512_i32gather_ps(lanes, column, 4));
      _mm512_storeu_ps(scores + r * kTileKeys + 16, _mm512_i32gather_ps(lanes, column + 256, 4));
    }
  }

  /// out[row][dim] = out · decay + weights[row][key] · V; rows of `out` are `stride` apart.
  void addValues(const TileRows& tile, const TensorView& v, int64_t head, const float* weights,
                 const float* decay, float* out, int64_t stride) const {
    for (int64_t r = 0; r < rows_; r++) {
      const float* const p = weights + r * kTileKeys;
      const __m512bh both = _mm512_cvtne2ps_pbh(_mm512_loadu_ps(p + 16), _mm512_loadu_ps(p));
      _mm512_store_si512(weights_ + r * 64, as<__m512i>(both));
      if (decay[r] == 1.0f) continue;
      float* const row = out + r * stride;
      for (int64_t d = 0; d < steps_ * 32; d += W) store(row + d, load(row + d) * decay[r]);
    }
    interleaveValues(tile, head * v.stride[v.rank - 2]);
    _tile_loadd(5, weights_, 64);
    for (int64_t i = 0; i < 2 * steps_; i += 2) {
      float* const to = out + i * 16;
      _tile_loadd(6, to, stride * 4);
      _tile_loadd(3, values_ + i * kTileBytes, 64);
      _tile_dpbf16ps(6, 5, 3);
      _tile_loadd(7, to + 16, stride * 4);
      _tile_loadd(4, values_ + (i + 1) * kTileBytes, 64);
      _tile_dpbf16ps(7, 5, 4);
      _tile_stored(6, to, stride * 4);
      _tile_stored(7, to + 16, stride * 4);
    }
  }

 private:
  /// 32 elements from i on of a row, zeros where it has ended or (null) does not exist.
  NANO_INLINE __m512i loadHalves(const char* row, int64_t offset, int64_t i) const {
    const int64_t left = dim_ - i;
    const __mmask32 mask = !row || left <= 0 ? 0 : left >= 32 ? ~0u : (1u << left) - 1;
    return _mm512_maskz_loadu_epi16(mask, reinterpret_cast<const uint16_t*>(row) + offset + i);
  }

  /// To left operands [2][dim / 32][16 keys][32 dims].
  void copyKeys(const TileRows& tile, int64_t offset) const {
    for (int64_t j = 0; j < kTileKeys; j++) {
      char* const to = keys_ + j / 16 * steps_ * kTileBytes + j % 16 * 64;
      for (int64_t i = 0; i < steps_; i++)
        _mm512_store_si512(to + i * kTileBytes,
                           loadHalves(j < tile.count ? tile.k[j] : nullptr, offset, i * 32));
    }
  }

  /// To right operands [dim / 16][16 pairs of keys][16 dims][2].
  void interleaveValues(const TileRows& tile, int64_t offset) const {
    alignas(64) static constexpr uint16_t kInterleave[32] = {0,  32, 1,  33, 2,  34, 3,  35, 4,  36, 5,
                                                             37, 6,  38, 7,  39, 8,  40, 9,  41, 10, 42,
                                                             11, 43, 12, 44, 13, 45, 14, 46, 15, 47};
    const __m512i low = _mm512_load_si512(kInterleave), high = _mm512_add_epi16(low, _mm512_set1_epi16(16));
    for (int64_t pair = 0; pair < 16; pair++) {
      const char* const x = 2 * pair < tile.count ? tile.v[2 * pair] : nullptr;
      const char* const y = 2 * pair + 1 < tile.count ? tile.v[2 * pair + 1] : nullptr;
      char* to = values_ + pair * 64;
      for (int64_t i = 0; i < steps_; i++, to += 2 * kTileBytes) {
        const __m512i a = loadHalves(x, offset, i * 32), b = loadHalves(y, offset, i * 32);
        _mm512_store_si512(to, _mm512_permutex2var_epi16(a, low, b));
        _mm512_store_si512(to + kTileBytes, _mm512_permutex2var_epi16(a, high, b));
      }
    }
  }

  int64_t dim_, steps_, rows_;
  bool inPlace_;  // whole tiles of K can be loaded from the cache as they lie there
  TileScope tiles_;
  char *keys_, *values_, *weights_, *sums_, *queries_;
};

}  // namespace NANO_ISA
}  // namespace nanovllm

#endif

// The two matrix products of flash attention on matrix units (AMX), for a bfloat16 cache. Queries and
// softmax weights are rounded to bfloat16 for it, as on a GPU's tensor cores; sums stay float32.
//
// The tile instruction computes C[16][16] += A[16][32] · B[32][16], B in pairs. The roles:
//   Sᵀ[key][query]  = K[key][dim]  · Qᵀ[dim][query]    K lies in the cache as A wants it
//   Oᵀ[dim][query] += Vᵀ[dim][key] · Pᵀ[key][query]    V must be transposed, once for all queries of a task
#pragma once

#if defined(__AMX_BF16__)

#include "cpu/kernels/amx.h"
#include "cpu/kernels/flash_task.h"
#include "cpu/kernels/transpose.h"

namespace nanovllm {
namespace NANO_ISA {

/// Same interface as FlashTiles. All scratch is in tiles of 1 KiB; head sizes are padded to 32 with zeros.
class FlashTilesAmx {
 public:
  static int64_t bytes(int64_t dim) { return (paddedDim(dim) / 32 * (4 + kGroups) + 1) * kTileBytes; }

  FlashTilesAmx(int64_t dim, char* scratch)
      : dim_(dim),
        steps_(paddedDim(dim) / 32),
        tiles_(16),
        keys_(scratch),
        values_(keys_ + 2 * steps_ * kTileBytes),
        queries_(values_ + 2 * steps_ * kTileBytes),
        weights_(queries_ + kGroups * steps_ * kTileBytes) {}

  /// Group g's queries (null: zeros) as right operands [D/32][16 pairs of d][16 queries][2].
  void setQueries(int64_t g, const float* const (&queries)[kLanes]) const {
    for (int64_t i = 0; i < steps_; i++) {
      Vec rows[kLanes];  // 16 pairs each
      for (int lane = 0; lane < kLanes; lane++) {
        const float* const q = queries[lane];
        const Vec low = q ? loadUpTo(q + i * 32, dim_ - i * 32) : Vec{};
        const Vec high = q ? loadUpTo(q + i * 32 + 16, dim_ - i * 32 - 16) : Vec{};
        rows[lane] = as<Vec>(_mm512_cvtne2ps_pbh(as<__m512>(high), as<__m512>(low)));
      }
      transpose(rows);
      char* const tile = queries_ + (g * steps_ + i) * kTileBytes;
      for (int pair = 0; pair < 16; pair++) memcpy(tile + pair * 64, &rows[pair], 64);
    }
  }

  void loadKeys(const AttnBatch& a, int b, int64_t kvHead, int64_t first, int64_t count) const {
    const uint16_t* rows[kTileKeys] = {};  // values; null where the sequence has ended
    a.forEachKey(b, kvHead, first, count, [&](int64_t j, int64_t kOffset, int64_t vOffset) {
      const uint16_t* const key = a.k.as<uint16_t>() + kOffset;
      rows[j] = a.v.as<uint16_t>() + vOffset;
      char* const tileRow = keys_ + j / 16 * steps_ * kTileBytes + j % 16 * 64;
      for (int64_t i = 0; i < steps_; i++) {
        _mm512_store_si512(tileRow + i * kTileBytes, loadHalves(key + i * 32, dim_ - i * 32));
        prefetchNextTile(key + i * 32, a.k);
        prefetchNextTile(rows[j] + i * 32, a.v);
      }
    });
    for (int64_t j = count; j < kTileKeys; j++) {
      char* const tileRow = keys_ + j / 16 * steps_ * kTileBytes + j % 16 * 64;
      for (int64_t i = 0; i < steps_; i++) _mm512_store_si512(tileRow + i * kTileBytes, __m512i{});
    }
    for (int64_t d = 0; d < steps_ * 32; d += 32) transposeValues(rows, d);
  }

  /// scores[32 keys][16 queries]
  void multiplyKeys(int64_t g, float* scores) const {
    const char* const queries = queries_ + g * steps_ * kTileBytes;
    _tile_zero(0);
    _tile_zero(1);
    for (int64_t i = 0; i < steps_; i++) {
      _tile_loadd(6, queries + i * kTileBytes, 64);
      _tile_loadd(4, keys_ + i * kTileBytes, 64);
      _tile_dpbf16ps(0, 4, 6);
      _tile_loadd(5, keys_ + (steps_ + i) * kTileBytes, 64);
      _tile_dpbf16ps(1, 5, 6);
    }
    _tile_stored(0, scores, 64);
    _tile_stored(1, scores + 16 * kLanes, 64);
  }

  /// out[dim][16 queries] = out · decay + Vᵀ · weights
  void addValues(const float* weights, Vec decay, float* out) const {
    packWeights(weights);
    const __mmask16 changed = _mm512_cmp_ps_mask(as<__m512>(decay), _mm512_set1_ps(1.0f), _CMP_NEQ_UQ);
    if (changed) {  // else every maximum stayed, and multiplying by 1 would change nothing
      for (int64_t d = 0; d < steps_ * 32; d++) store(out + d * kLanes, load(out + d * kLanes) * decay);
    }
    _tile_loadd(6, weights_, 64);
    for (int64_t i = 0; i < 2 * steps_; i += 2) {
      float* const rows = out + i * 16 * kLanes;
      _tile_loadd(0, rows, 64);
      _tile_loadd(4, values_ + i * kTileBytes, 64);
      _tile_dpbf16ps(0, 4, 6);
      _tile_loadd(1, rows + 16 * kLanes, 64);
      _tile_loadd(5, values_ + (i + 1) * kTileBytes, 64);
      _tile_dpbf16ps(1, 5, 6);
      _tile_stored(0, rows, 64);
      _tile_stored(1, rows + 16 * kLanes, 64);
    }
  }

 private:
  NANO_INLINE static Vec loadUpTo(const float* p, int64_t left) {
    return left >= W ? load(p) : left <= 0 ? Vec{} : loadPart(p, left);
  }

  /// Up to 32 elements; zeros where the row has ended.
  NANO_INLINE static __m512i loadHalves(const uint16_t* p, int64_t left) {
    if (left >= 32) return _mm512_loadu_si512(p);
    return _mm512_maskz_loadu_epi16(left <= 0 ? 0 : (1u << left) - 1, p);
  }

  /// The same place one tile later, if blocks are that long. Heads lie interleaved in the cache, a
  /// pattern the hardware does not foresee.
  NANO_INLINE static void prefetchNextTile(const uint16_t* p, const TensorView& kv) {
    _mm_prefetch(p + kTileKeys * kv.stride[kv.rank - 3], _MM_HINT_T1);
  }

  /// Columns d … d + 31 of V to left operands [16 d][32 keys]: two keys side by side in 32 bits, transposed.
  void transposeValues(const uint16_t* const (&rows)[kTileKeys], int64_t d) const {
    Vec low[16], high[16];  // bits, not numbers: d … d + 15 and d + 16 … d + 31 of a pair of keys
    for (int pair = 0; pair < 16; pair++) {
      const uint16_t *const x = rows[2 * pair], *const y = rows[2 * pair + 1];
      const __m512i a = x ? loadHalves(x + d, dim_ - d) : __m512i{},
                    b = y ? loadHalves(y + d, dim_ - d) : __m512i{};
      const auto widen = [](__m512i v, int half) {
        return _mm512_cvtepu16_epi32(half ? _mm512_extracti64x4_epi64(v, 1) : _mm512_castsi512_si256(v));
      };
      low[pair] = as<Vec>(_mm512_or_si512(widen(a, 0), _mm512_slli_epi32(widen(b, 0), 16)));
      high[pair] = as<Vec>(_mm512_or_si512(widen(a, 1), _mm512_slli_epi32(widen(b, 1), 16)));
    }
    transpose(low);
    transpose(high);
    char* const tile = values_ + d / 16 * kTileBytes;
    for (int i = 0; i < 16; i++) {
      memcpy(tile + i * 64, &low[i], 64);
      memcpy(tile + kTileBytes + i * 64, &high[i], 64);
    }
  }

  /// weights[32 keys][16 queries] to a right operand [16 pairs of keys][16 queries][2].
  void packWeights(const float* weights) const {
    alignas(64) static constexpr uint16_t kInterleave[32] = {0,  16, 1,  17, 2,  18, 3,  19, 4,  20, 5,
                                                             21, 6,  22, 7,  23, 8,  24, 9,  25, 10, 26,
                                                             11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
    const __m512i interleave = _mm512_load_si512(kInterleave);
    for (int pair = 0; pair < 16; pair++) {
      const __m512 even = _mm512_load_ps(weights + 2 * pair * kLanes),
                   odd = _mm512_load_ps(weights + (2 * pair + 1) * kLanes);
      const __m512bh both = _mm512_cvtne2ps_pbh(odd, even);  // 16 of even, then 16 of odd
      _mm512_store_si512(weights_ + pair * 64, _mm512_permutexvar_epi16(interleave, as<__m512i>(both)));
    }
  }

  int64_t dim_, steps_;
  TileScope tiles_;
  char *keys_, *values_, *queries_, *weights_;
};

}  // namespace NANO_ISA
}  // namespace nanovllm

#endif

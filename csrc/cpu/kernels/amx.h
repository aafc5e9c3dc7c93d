// Intel's tile registers: eight matrices of up to 16 rows × 64 bytes for each thread.
#pragma once

#if defined(__AMX_BF16__)

#include <immintrin.h>

#include <cstdint>

#include "cpu/kernels/simd.h"

namespace nanovllm {
namespace NANO_ISA {

constexpr int64_t kTileBytes = 1024;

/// Rows of a tile register, and their length.
struct TileShape {
  int64_t rows, bytes;
};

/// Configures this thread's tiles and gives them back at the end (a thread that keeps them makes every
/// switch between threads save 8 KiB more).
class TileScope {
 public:
  explicit TileScope(const TileShape (&shapes)[8]) {
    struct alignas(64) Config {
      uint8_t palette = 1, startRow = 0, reserved[14] = {};
      uint16_t rowBytes[16] = {};
      uint8_t rows[16] = {};
    } config;
    static_assert(sizeof(Config) == 64, "the layout the processor defines");
    for (int t = 0; t < 8; t++) {
      config.rows[t] = static_cast<uint8_t>(shapes[t].rows);
      config.rowBytes[t] = static_cast<uint16_t>(shapes[t].bytes);
    }
    _tile_loadconfig(&config);
  }
  /// Registers 0 … 5, sums and left operands, get `rows` rows; 6 and 7, right operands, always 16.
  explicit TileScope(int64_t rows)
      : TileScope(
            {{rows, 64}, {rows, 64}, {rows, 64}, {rows, 64}, {rows, 64}, {rows, 64}, {16, 64}, {16, 64}}) {}
  ~TileScope() { _tile_release(); }
  TileScope(const TileScope&) = delete;
  TileScope& operator=(const TileScope&) = delete;
};

}  // namespace NANO_ISA
}  // namespace nanovllm

#endif

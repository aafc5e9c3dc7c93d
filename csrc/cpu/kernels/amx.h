// Intel's tile registers: eight matrices of up to 16 rows × 64 bytes for each thread.
#pragma once

#if defined(__AMX_BF16__)

#include <immintrin.h>

#include <cstdint>

#include "cpu/kernels/simd.h"

namespace nanovllm {
namespace NANO_ISA {

constexpr int64_t kTileBytes = 1024;

/// Configures this thread's tiles and gives them back at the end (a thread that keeps them makes every
/// switch between threads save 8 KiB more). Registers 0 … 5, sums and left operands, get `rows` rows; 6
/// and 7, right operands, always 16. Right operands and sums are `columns` wide.
class TileScope {
 public:
  TileScope(int rows, int columns) {
    struct alignas(64) Config {
      uint8_t palette = 1, startRow = 0, reserved[14] = {};
      uint16_t rowBytes[16] = {};
      uint8_t rows[16] = {};
    } config;
    static_assert(sizeof(Config) == 64, "the layout the processor defines");
    for (int t = 0; t < 8; t++) {
      config.rows[t] = static_cast<uint8_t>(t < 6 ? rows : 16);
      config.rowBytes[t] = static_cast<uint16_t>(t == 4 || t == 5 ? 64 : 4 * columns);
    }
    _tile_loadconfig(&config);
  }
  ~TileScope() { _tile_release(); }
  TileScope(const TileScope&) = delete;
  TileScope& operator=(const TileScope&) = delete;
};

}  // namespace NANO_ISA
}  // namespace nanovllm

#endif

// out[M, N] = x[M, K] · W[N, K]ᵀ for bfloat16 weights with the AVX512-BF16 dot product: 16 outputs times one
// pair of k in an instruction, twice the float32 rate on processors that have it (AMD since Zen 4, Intel
// since Cooper Lake) and no matrix units. Activations are rounded to bfloat16 pairs first.
#pragma once

#if defined(__AVX512BF16__)

#include "cpu/kernels/linear_finish.h"
#include "cpu/kernels/rows.h"
#include "cpu/pack.h"

namespace nanovllm {
namespace NANO_ISA {

class DotLinear {
 public:
  DotLinear(Context& ctx, const TensorView& out, const TensorView& x, const TensorView& weight,
            const LinearEpilogue& epilogue)
      : out_(out), weight_(weight.as<char>()), epilogue_(epilogue), shape_(weight), rows_(x.size[0]) {
    pairs_ = shape_.paddedK() / 2;
    x_ = reinterpret_cast<uint32_t*>(ctx.scratch.reserve(rows_ * pairs_ * sizeof(uint32_t)));
    forEachRow(ctx, rows_, shape_.k, [&](int64_t r) {
      BFloat16* const to = reinterpret_cast<BFloat16*>(x_ + r * pairs_);
      const float* const from = x.f32() + r * x.stride[0];
      forEachVec(shape_.k, [&](int64_t k, auto n) { storeN(to + k, loadN(from + k, n), n); });
      for (int64_t k = shape_.k; k < 2 * pairs_; k++) to[k] = {};
    });
  }

  /// All rows of panels [begin, end): blocks of 6 rows × 4 panels keep 24 sums in registers. A single row
  /// takes 8 panels, so that there are sums enough to hide the instruction's latency.
  void operator()(int64_t panel, int64_t end) const {
    if (rows_ == 1) {
      for (; panel + 8 <= end; panel += 8) block<1, 8>(0, panel);
    }
    for (; panel + 4 <= end; panel += 4) allRows<4>(panel);
    for (; panel < end; panel++) allRows<1>(panel);
  }

 private:
  template <int P>
  void allRows(int64_t panel) const {
    int64_t row = 0;
    for (; row + 6 <= rows_; row += 6) block<6, P>(row, panel);
    for (; row + 2 <= rows_; row += 2) block<2, P>(row, panel);
    for (; row < rows_; row++) block<1, P>(row, panel);
  }

  template <int R, int P>
  void block(int64_t row, int64_t panel) const {
    const int64_t panelBytes = pairs_ * 64;
    const char* const w = weight_ + panel * panelBytes;
    const uint32_t* const x = x_ + row * pairs_;
    __m512 sums[R][P] = {};
    for (int64_t k = 0; k < pairs_; k++) {
      __m512i b[P];
      for (int p = 0; p < P; p++) b[p] = loadBits<__m512i>(w + p * panelBytes + k * 64);
      for (int r = 0; r < R; r++) {
        const __m512i a = _mm512_set1_epi32(static_cast<int>(x[r * pairs_ + k]));
        for (int p = 0; p < P; p++)
          sums[r][p] = _mm512_dpbf16_ps(sums[r][p], as<__m512bh>(a), as<__m512bh>(b[p]));
      }
    }
    for (int p = 0; p < P; p++) {
      const int64_t column = (panel + p) * 16, n = shape_.n - column < 16 ? shape_.n - column : 16;
      for (int r = 0; r < R; r++)
        finish(out_.f32() + (row + r) * out_.stride[0] + column, as<Vec>(sums[r][p]), epilogue_.from(column),
               n);
    }
  }

  const TensorView& out_;
  const char* weight_;
  const LinearEpilogue epilogue_;
  PackedShape shape_;
  int64_t rows_, pairs_;
  uint32_t* x_;  // [rows][pairs]: two bfloat16 of neighbouring k
};

}  // namespace NANO_ISA
}  // namespace nanovllm

#endif

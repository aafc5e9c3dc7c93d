// The operations that touch each activation once or twice: norms, SwiGLU, rotary embedding.
#include <cmath>

#include "cpu/kernels/exp.h"
#include "cpu/kernels/ops.h"
#include "cpu/kernels/rows.h"

namespace nanovllm {
namespace NANO_ISA {
namespace {

/// out = x · 1/sqrt(mean(x²) + eps) · weight
NANO_INLINE void normalize(float* out, const float* x, const float* weight, int64_t n, float eps) {
  // Four sums, so that an addition need not wait for the one before.
  Vec sums[4] = {};
  int64_t done = 0;
  for (; done + 4 * W <= n; done += 4 * W) {
    for (int i = 0; i < 4; i++) {
      const Vec v = load(x + done + i * W);
      sums[i] = fma(v, v, sums[i]);
    }
  }
  forEachVec(n - done, [&](int64_t i, auto count) {
    const Vec v = loadN(x + done + i, count);
    sums[0] = fma(v, v, sums[0]);
  });
  const float meanSquare = sum((sums[0] + sums[1]) + (sums[2] + sums[3])) / static_cast<float>(n);
  const Vec scale = broadcast(1.0f / std::sqrt(meanSquare + eps));
  forEachVec(n, [&](int64_t i, auto count) {
    storeN(out + i, loadN(x + i, count) * scale * loadN(weight + i, count), count);
  });
}

/// One head: pairs (i, i + D/2) turn by the angle whose cosine and sine stand in `cosSin`.
NANO_INLINE void rotate(float* head, const float* cosSin, int64_t half) {
  forEachVec(half, [&](int64_t i, auto n) {
    const Vec a = loadN(head + i, n), b = loadN(head + half + i, n);
    const Vec c = loadN(cosSin + i, n), s = loadN(cosSin + half + i, n);
    storeN(head + i, a * c - b * s, n);
    storeN(head + half + i, b * c + a * s, n);
  });
}

}  // namespace

void rmsNorm(Context& ctx, const TensorView& out, const TensorView& x, const float* weight, float eps) {
  // [T, D] is [T, 1, D].
  const int64_t heads = x.rank == 3 ? x.size[1] : 1, n = x.size[x.rank - 1];
  forEachRow(ctx, x.size[0], heads * n, [&](int64_t t) {
    for (int64_t h = 0; h < heads; h++) {
      normalize(out.f32() + t * out.stride[0] + h * out.stride[1],
                x.f32() + t * x.stride[0] + h * x.stride[1], weight, n, eps);
    }
  });
}

void siluAndMul(Context& ctx, const TensorView& out, const TensorView& x) {
  const int64_t n = out.size[1];
  forEachRow(ctx, out.size[0], n, [&](int64_t t) {
    const float* const gate = x.f32() + t * x.stride[0];
    const float* const up = gate + n;
    float* const y = out.f32() + t * out.stride[0];
    forEachVec(n, [&](int64_t i, auto c) {
      const Vec z = loadN(gate + i, c);
      storeN(y + i, z / (1.0f + exp(-z)) * loadN(up + i, c), c);
    });
  });
}

void rotaryEmbedding(Context& ctx, const TensorView& q, const TensorView& k, const int32_t* positions,
                     const TensorView& cosSin) {
  const int64_t dim = q.size[2];
  forEachRow(ctx, q.size[0], (q.size[1] + k.size[1]) * dim, [&](int64_t t) {
    const float* const angles = cosSin.f32() + positions[t] * cosSin.stride[0];
    for (const TensorView* x : {&q, &k}) {
      for (int64_t h = 0; h < x->size[1]; h++) {
        rotate(x->f32() + t * x->stride[0] + h * x->stride[1], angles, dim / 2);
      }
    }
  });
}

}  // namespace NANO_ISA
}  // namespace nanovllm

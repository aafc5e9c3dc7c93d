// Attention as in the textbook: gather all keys and values into dense buffers, compute all scores,
// softmax, weighted sum. The baseline that shows what flash attention (attention.cc) saves: the gather
// copies the whole cache at every step, and the scores take queries × keys memory.
#include <cmath>
#include <type_traits>

#include "cpu/kernels/exp.h"
#include "cpu/kernels/ops.h"
#include "cpu/kernels/rows.h"

namespace nanovllm {
namespace NANO_ISA {
namespace {

struct MathAttention {
  const AttnBatch& a;
  const TensorView &k, &v, &scores;  // the workspace
  int64_t dim;

  /// Copies key and value j of sequence b, all heads, to place `w` of the workspace.
  void gather(int b, int64_t w, int64_t j) const {
    for (int64_t h = 0; h < a.kvHeads(); h++) {
      copyTo(k, a.k, b, w, j, h);
      copyTo(v, a.v, b, w, j, h);
    }
  }

  void copyTo(const TensorView& dense, const TensorView& from, int b, int64_t w, int64_t j, int64_t h) const {
    float* const to = dense.f32() + w * dense.stride[0] + j * dense.stride[1] + h * dense.stride[2];
    withFloatType(from.dtype, [&](auto* type) {
      auto* const row = from.as<std::remove_pointer_t<decltype(type)>>() + a.keyOffset(from, b, j, h);
      forEachVec(dim, [&](int64_t i, auto n) { storeN(to + i, loadN(row + i, n), n); });
    });
  }

  float dot(const float* x, const float* y) const {
    Vec s = {};
    forEachVec(dim, [&](int64_t i, auto n) { s = fma(loadN(x + i, n), loadN(y + i, n), s); });
    return sum(s);
  }

  /// Query i of sequence b, head h.
  void attend(int b, int64_t w, int64_t i, int64_t h) const {
    const int64_t t = a.firstQuery(b) + i, kvHead = h / (a.heads() / a.kvHeads()), seen = a.visibleKeys(b, i);
    const float* const query = a.q.f32() + t * a.q.stride[0] + h * a.q.stride[1];
    const float* const keys = k.f32() + w * k.stride[0] + kvHead * k.stride[2];
    const float* const values = v.f32() + w * v.stride[0] + kvHead * v.stride[2];
    float* const p = scores.f32() + w * scores.stride[0] + h * scores.stride[1] + i * scores.stride[2];
    float* const out = a.out.f32() + t * a.out.stride[0] + h * a.out.stride[1];

    float largest = -INFINITY;
    for (int64_t j = 0; j < seen; j++) {
      p[j] = dot(query, keys + j * k.stride[1]) * a.scale;
      if (p[j] > largest) largest = p[j];
    }
    Vec total = {};
    forEachVec(seen, [&](int64_t j, auto n) {
      storeN(p + j, exp(loadN(p + j, n) - largest), n);
      total = total + loadN(p + j, n);
    });
    const float inverse = seen > 0 ? 1.0f / sum(total) : 0.0f;
    forEachVec(dim, [&](int64_t d, auto n) { storeN(out + d, Vec{}, n); });
    for (int64_t j = 0; j < seen; j++) {
      const float* const value = values + j * v.stride[1];
      const Vec weight = broadcast(p[j]);
      forEachVec(dim, [&](int64_t d, auto n) {
        storeN(out + d, fma(weight, loadN(value + d, n), loadN(out + d, n)), n);
      });
    }
    forEachVec(dim, [&](int64_t d, auto n) { storeN(out + d, loadN(out + d, n) * inverse, n); });
  }
};

}  // namespace

void mathAttention(Context& ctx, const AttnBatch& a, const TensorView& k, const TensorView& v,
                   const TensorView& scores) {
  const MathAttention math{a, k, v, scores, a.headDim()};
  // Decoding has room for every sequence at once; prefill takes one after the other.
  for (int b = 0; b < a.sequences; b++) {
    const int64_t w = k.size[0] > 1 ? b : 0;
    forEachRow(ctx, a.keys(b), 2 * a.kvHeads() * math.dim, [&](int64_t j) { math.gather(b, w, j); });
    forEachRow(ctx, a.queries(b) * a.heads(), a.keys(b) * math.dim,
               [&](int64_t row) { math.attend(b, w, row / a.heads(), row % a.heads()); });
  }
}

}  // namespace NANO_ISA
}  // namespace nanovllm

// The operations that only move rows: embedding, gather, writing the KV cache.
#include <cstring>
#include <type_traits>

#include "cpu/kernels/ops.h"
#include "cpu/kernels/rows.h"
#include "cpu/pack.h"

namespace nanovllm {
namespace NANO_ISA {
namespace {

/// One row of a packed matrix. Its elements are 16 units apart, since 16 rows lie interleaved.
NANO_INLINE void unpackRow(float* out, const TensorView& weight, int64_t row) {
  const PackedShape shape(weight);
  if (weight.dtype == DType::kBFloat16) {
    const BFloat16* const pairs = weight.as<BFloat16>() + shape.offset(row, 0);
    for (int64_t k = 0; k < shape.k; k++) {
      out[k] = fromBFloat16(pairs[(k & ~int64_t{1}) * PackedShape::kPanel + (k & 1)].bits);
    }
  } else if (weight.dtype == DType::kFloat16) {
    const Float16* const in = weight.as<Float16>() + shape.offset(row, 0);
    for (int64_t k = 0; k < shape.k; k++) out[k] = fromFloat16(in[k * PackedShape::kPanel].bits);
  } else {
    const float* const in = weight.f32() + shape.offset(row, 0);
    for (int64_t k = 0; k < shape.k; k++) out[k] = in[k * PackedShape::kPanel];
  }
}

template <class To, class From>
NANO_INLINE void copyRow(To* out, const From* in, int64_t n) {
  forEachVec(n, [&](int64_t i, auto count) { storeN(out + i, loadN(in + i, count), count); });
}

}  // namespace

void embedding(Context& ctx, const TensorView& out, const TensorView& ids, const TensorView& weight,
               int64_t firstRow) {
  const int64_t n = out.size[1];
  forEachRow(ctx, out.size[0], n, [&](int64_t t) {
    float* const row = out.f32() + t * out.stride[0];
    const int64_t id = ids.i32()[t] - firstRow;
    if (id < 0 || id >= weight.size[0]) {
      memset(row, 0, n * sizeof(float));
    } else if (weight.layout == Layout::kPacked) {
      unpackRow(row, weight, id);
    } else {
      withFloatType(weight.dtype, [&](auto* type) {
        copyRow(row, weight.as<std::remove_pointer_t<decltype(type)>>() + id * weight.stride[0], n);
      });
    }
  });
}

void gatherRows(Context& ctx, const TensorView& out, const TensorView& x, const int32_t* rows) {
  forEachRow(ctx, out.size[0], out.size[1], [&](int64_t r) {
    copyRow(out.f32() + r * out.stride[0], x.f32() + rows[r] * x.stride[0], out.size[1]);
  });
}

void storeKvCache(Context& ctx, const TensorView& k, const TensorView& v, const TensorView& kCache,
                  const TensorView& vCache, const int32_t* slots) {
  const int64_t heads = k.size[1], dim = k.size[2], blockSize = kCache.size[1];
  forEachRow(ctx, k.size[0], 2 * heads * dim, [&](int64_t t) {
    if (slots[t] < 0) return;
    const int64_t block = slots[t] / blockSize, offset = slots[t] % blockSize;
    const auto write = [&](const TensorView& from, const TensorView& cache) {
      withFloatType(cache.dtype, [&](auto* type) {
        auto* const to = cache.as<std::remove_pointer_t<decltype(type)>>() + block * cache.stride[0] +
                         offset * cache.stride[1];
        for (int64_t h = 0; h < heads; h++) {
          copyRow(to + h * cache.stride[2], from.f32() + t * from.stride[0] + h * from.stride[1], dim);
        }
      });
    };
    write(k, kCache);
    write(v, vCache);
  });
}

}  // namespace NANO_ISA
}  // namespace nanovllm

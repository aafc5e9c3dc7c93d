#include "cpu/checks.h"

namespace nanovllm {
namespace {

/// Lengths that add up: from 0, never falling, at most `limit`.
void expectCumulative(const char* op, const char* name, const int32_t* cu, int entries, int64_t limit) {
  for (int i = 0; i < entries; i++) {
    const int64_t least = i == 0 ? 0 : cu[i - 1];
    if (cu[i] < least || cu[i] > limit) {
      fail(op, name, format("entry %d from %lld to %lld", i, (long long)least, (long long)limit),
           std::to_string(cu[i]));
    }
  }
}

}  // namespace

void expectRange(const char* op, const char* name, const TensorView& ints, int64_t from, int64_t limit) {
  const int64_t n = ints.numel();
  for (int64_t i = 0; i < n; i++) {
    const int64_t value = ints.i32()[i];
    if (value < from || value >= limit) {
      fail(op, name, format("values from %lld to %lld", (long long)from, (long long)limit - 1),
           format("%lld at index %lld", (long long)value, (long long)i));
    }
  }
}

void expectAttention(const char* op, const AttnBatch& a, int64_t blockTableWidth) {
  expect(op, "q", a.q, 3, DType::kFloat32);
  expect(op, "out", a.out, 3, DType::kFloat32);
  const int kvRank = a.blockTables ? 4 : 3;
  for (const TensorView* kv : {&a.k, &a.v}) {
    expectFloat(op, kv == &a.k ? "k" : "v", *kv, kvRank);
    expectSize(op, "v's dtype code", static_cast<int>(kv->dtype), static_cast<int>(a.k.dtype));
    for (int i = 0; i < kvRank; i++) expectSize(op, "a dimension of v", kv->size[i], a.k.size[i]);
  }
  for (int i = 0; i < 3; i++) expectSize(op, "a dimension of out", a.out.size[i], a.q.size[i]);
  expectSize(op, "the head size of k", a.k.size[kvRank - 1], a.headDim());
  if (a.headDim() > 512) fail(op, "the head size", "at most 512", std::to_string(a.headDim()));
  if (a.kvHeads() < 1 || a.heads() % a.kvHeads() != 0) {
    fail(op, "query heads", "a multiple of " + std::to_string(a.kvHeads()), std::to_string(a.heads()));
  }
  if (a.cuSeqlensQ) expectCumulative(op, "cuSeqlensQ", a.cuSeqlensQ, a.sequences + 1, a.q.size[0]);
  if (a.cuSeqlensK) {
    expectCumulative(op, "cuSeqlensK", a.cuSeqlensK, a.sequences + 1,
                     a.blockTables ? INT32_MAX : a.k.size[0]);
  }
  if (!a.blockTables) return;
  const int64_t blockSize = a.k.size[1];
  for (int b = 0; b < a.sequences; b++) {
    const int64_t blocks = (a.keys(b) + blockSize - 1) / blockSize;
    if (a.keys(b) < 0 || blocks > blockTableWidth) {
      fail(op, "a sequence's keys", format("from 0 to %lld", (long long)(blockTableWidth * blockSize)),
           std::to_string(a.keys(b)));
    }
    for (int64_t i = 0; i < blocks; i++) {
      const int32_t block = a.blockTables[b * a.blockTableStride + i];
      if (block < 0 || block >= a.k.size[0]) {
        fail(op, "blockTables", format("blocks from 0 to %lld", (long long)a.k.size[0] - 1),
             std::to_string(block));
      }
    }
  }
}

}  // namespace nanovllm

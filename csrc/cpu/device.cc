#include "cpu/device.h"

#include <algorithm>
#include <cstring>

#include "cpu/checks.h"
#include "cpu/pack.h"
#include "cpu/sample.h"

namespace nanovllm {

std::string CpuDevice::describe() const {
  return format("cpu: %d thread%s, %s", threads(), threads() == 1 ? "" : "s", isa_.description);
}

void CpuDevice::loadRows(const TensorView& weight, int64_t firstRow, const char* bytes, size_t size,
                         DType source) {
  const char* const op = "loadRows";
  expectFloat(op, "weight", weight, weight.rank);
  if (weight.rank < 1 || weight.rank > 2)
    throw TensorError("loadRows: Expected a matrix or a vector for weight.");
  if (source == DType::kInt32)
    throw TensorError("loadRows: Expected a float dtype for the checkpoint's values.");
  const int64_t rowBytes = (weight.rank == 1 ? 1 : weight.size[1]) * bytesOf(source);
  const int64_t rows = rowBytes == 0 ? 0 : static_cast<int64_t>(size) / rowBytes;
  if (rows * rowBytes != static_cast<int64_t>(size) || firstRow < 0 || firstRow + rows > weight.size[0]) {
    throw TensorError(
        format("loadRows: Expected whole rows of %lld bytes within rows 0 to %lld but received %zu bytes "
               "for row %lld on.",
               (long long)rowBytes, (long long)weight.size[0] - 1, size, (long long)firstRow));
  }
  nanovllm::loadRows(pool_, weight, firstRow, rows, bytes, source);
}

void CpuDevice::embedding(const TensorView& out, const TensorView& ids, const TensorView& weight,
                          std::optional<int64_t> firstRow) {
  const char* const op = "embedding";
  expect(op, "out", out, 2, DType::kFloat32);
  expectFloat(op, "weight", weight, 2);
  expectSize(op, "columns of out", out.size[1], weight.size[1]);
  expectInts(op, "ids", ids, out.size[0]);
  if (!firstRow) expectRange(op, "ids", ids, 0, weight.size[0]);  // any other id is another shard's
  isa_.kernels->embedding(context_, out, ids, weight, firstRow.value_or(0));
}

void CpuDevice::linear(const TensorView& out, const TensorView& x, const TensorView& weight,
                       const TensorView* bias, bool accumulate) {
  const char* const op = "linear";
  expect(op, "out", out, 2, DType::kFloat32);
  expect(op, "x", x, 2, DType::kFloat32);
  expectFloat(op, "weight", weight, 2);
  if (weight.layout != Layout::kPacked) throw TensorError("linear: weight must come from allocateWeight().");
  expectSize(op, "rows of out", out.size[0], x.size[0]);
  expectSize(op, "columns of x", x.size[1], weight.size[1]);
  expectSize(op, "columns of out", out.size[1], weight.size[0]);
  if (bias) expectVector(op, "bias", *bias, weight.size[0]);
  isa_.kernels->linear(context_, out, x, weight, {bias ? bias->f32() : nullptr, accumulate});
}

void CpuDevice::rmsNorm(const TensorView& out, const TensorView& x, const TensorView& weight, float eps) {
  const char* const op = "rmsNorm";
  const int rank = x.rank == 3 ? 3 : 2;
  expect(op, "x", x, rank, DType::kFloat32);
  expect(op, "out", out, rank, DType::kFloat32);
  for (int i = 0; i < rank; i++) expectSize(op, "a dimension of out", out.size[i], x.size[i]);
  expectVector(op, "weight", weight, x.size[rank - 1]);
  isa_.kernels->rmsNorm(context_, out, x, weight.f32(), eps);
}

void CpuDevice::siluAndMul(const TensorView& out, const TensorView& x) {
  const char* const op = "siluAndMul";
  expect(op, "out", out, 2, DType::kFloat32);
  expect(op, "x", x, 2, DType::kFloat32);
  expectSize(op, "rows of out", out.size[0], x.size[0]);
  expectSize(op, "columns of x", x.size[1], 2 * out.size[1]);
  isa_.kernels->siluAndMul(context_, out, x);
}

void CpuDevice::rotaryEmbedding(const TensorView& q, const TensorView& k, const TensorView& positions,
                                const TensorView& cosSin) {
  const char* const op = "rotaryEmbedding";
  expect(op, "q", q, 3, DType::kFloat32);
  expect(op, "k", k, 3, DType::kFloat32);
  expect(op, "cosSin", cosSin, 2, DType::kFloat32);
  expectSize(op, "rows of k", k.size[0], q.size[0]);
  expectSize(op, "the head size of k", k.size[2], q.size[2]);
  expectSize(op, "columns of cosSin", cosSin.size[1], q.size[2]);
  expectSize(op, "the head size modulo 2", q.size[2] % 2, 0);
  expectInts(op, "positions", positions, q.size[0]);
  expectRange(op, "positions", positions, 0, cosSin.size[0]);
  isa_.kernels->rotaryEmbedding(context_, q, k, positions.i32(), cosSin);
}

void CpuDevice::storeKvCache(const TensorView& k, const TensorView& v, const TensorView& kCache,
                             const TensorView& vCache, const TensorView& slots) {
  const char* const op = "storeKvCache";
  expect(op, "k", k, 3, DType::kFloat32);
  expect(op, "v", v, 3, DType::kFloat32);
  for (const TensorView* cache : {&kCache, &vCache}) {
    expectFloat(op, "a cache", *cache, 4);
    for (int i = 0; i < 2; i++) expectSize(op, "blocks of vCache", cache->size[i], kCache.size[i]);
    for (int i = 1; i < 3; i++) expectSize(op, "heads of a cache", cache->size[i + 1], k.size[i]);
  }
  for (int i = 0; i < 3; i++) expectSize(op, "a dimension of v", v.size[i], k.size[i]);
  expectInts(op, "slotMapping", slots, k.size[0]);
  expectRange(op, "slotMapping", slots, -1, kCache.size[0] * kCache.size[1]);
  isa_.kernels->storeKvCache(context_, k, v, kCache, vCache, slots.i32());
}

void CpuDevice::attention(const TensorView& out, const TensorView& q, const TensorView& k,
                          const TensorView& v, const AttnInput& in) {
  const char* const op = in.contextLens ? "attnWithKvCache" : "attnVarlen";
  AttnBatch batch{};
  batch.out = out;
  batch.q = q;
  batch.k = k;
  batch.v = v;
  batch.scale = in.scale;
  batch.causal = in.causal;
  if (in.contextLens) {
    expectInts(op, "contextLens", *in.contextLens, q.size[0]);
    batch.contextLens = in.contextLens->i32();
    batch.sequences = static_cast<int>(q.size[0]);
  } else {
    const int64_t entries = in.cuSeqlensQ->numel();
    if (entries < 1) throw TensorError("attnVarlen: cuSeqlensQ must have at least one entry.");
    expectInts(op, "cuSeqlensQ", *in.cuSeqlensQ, entries);
    expectInts(op, "cuSeqlensK", *in.cuSeqlensK, entries);
    batch.cuSeqlensQ = in.cuSeqlensQ->i32();
    batch.cuSeqlensK = in.cuSeqlensK->i32();
    batch.sequences = static_cast<int>(entries) - 1;
  }
  if (in.blockTables) {
    expect(op, "blockTables", *in.blockTables, 2, DType::kInt32);
    expectSize(op, "rows of blockTables", in.blockTables->size[0], batch.sequences);
    batch.blockTables = in.blockTables->i32();
    batch.blockTableStride = in.blockTables->stride[0];
  }
  expectAttention(op, batch, in.blockTables ? in.blockTables->size[1] : 0);
  if (!in.denseK) return isa_.kernels->flashAttention(context_, batch);

  // Both workspaces [W, S, Hkv, D] and the scores [W, Hq, Q, S] must hold the largest sequence.
  const int64_t gathered = in.denseK->size[0];
  for (const TensorView* dense : {in.denseK, in.denseV})
    expect(op, "a workspace", *dense, 4, DType::kFloat32);
  expect(op, "the scores", *in.scores, 4, DType::kFloat32);
  expectSize(op, "workspaces", in.denseV->size[0], gathered);
  expectSize(op, "workspaces of scores", in.scores->size[0], gathered);
  if (gathered != 1) expectSize(op, "workspaces", gathered, batch.sequences);
  for (const TensorView* dense : {in.denseK, in.denseV}) {
    expectSize(op, "heads of a workspace", dense->size[2], batch.kvHeads());
    expectSize(op, "the head size of a workspace", dense->size[3], batch.headDim());
  }
  expectSize(op, "heads of the scores", in.scores->size[1], batch.heads());
  for (int b = 0; b < batch.sequences; b++) {
    const int64_t keys = batch.keys(b);
    const bool fits = keys <= in.denseK->size[1] && keys <= in.denseV->size[1] &&
                      keys <= in.scores->size[3] && batch.queries(b) <= in.scores->size[2];
    if (!fits) {
      throw TensorError(
          format("%s: Expected a workspace for %lld queries over %lld keys but received scores for %lld "
                 "over %lld.",
                 op, (long long)batch.queries(b), (long long)keys, (long long)in.scores->size[2],
                 (long long)in.scores->size[3]));
    }
  }
  isa_.kernels->mathAttention(context_, batch, *in.denseK, *in.denseV, *in.scores);
}

void CpuDevice::gatherRows(const TensorView& out, const TensorView& x, const TensorView& rows) {
  const char* const op = "gatherRows";
  expect(op, "out", out, 2, DType::kFloat32);
  expect(op, "x", x, 2, DType::kFloat32);
  expectSize(op, "columns of out", out.size[1], x.size[1]);
  expectInts(op, "rows", rows, out.size[0]);
  expectRange(op, "rows", rows, 0, x.size[0]);
  isa_.kernels->gatherRows(context_, out, x, rows.i32());
}

void CpuDevice::gatherTokens(const TensorView& out, const TensorView& table, const TensorView& slots) {
  const char* const op = "gatherTokens";
  const int64_t rows = out.numel();
  expectInts(op, "out", out, rows);
  expectInts(op, "table", table, table.numel());
  expectInts(op, "slots", slots, rows);
  expectRange(op, "slots", slots, -1, table.numel());
  for (int64_t b = 0; b < rows; b++) {
    const int32_t slot = slots.i32()[b];
    out.i32()[b] = slot < 0 ? 0 : table.i32()[slot];
  }
}

void CpuDevice::scatterTokens(const TensorView& table, const TensorView& values, const TensorView& slots) {
  const char* const op = "scatterTokens";
  const int64_t rows = values.numel();
  expectInts(op, "table", table, table.numel());
  expectInts(op, "values", values, rows);
  expectInts(op, "slots", slots, rows);
  expectRange(op, "slots", slots, -1, table.numel());
  for (int64_t b = 0; b < rows; b++) {
    const int32_t slot = slots.i32()[b];
    if (slot >= 0) table.i32()[slot] = values.i32()[b];
  }
}

void CpuDevice::concatColumns(const TensorView& out, const TensorView& parts) {
  expectConcat(out, parts);
  const int64_t rows = out.size[0], columns = out.size[1], width = parts.size[2];
  const int bytes = bytesOf(out.dtype);
  pool_.run(static_cast<int>(rows), [&](int row, int) {
    char* const to = out.data + row * out.stride[0] * bytes;
    for (int64_t part = 0, begin = 0; begin < columns; part++, begin += width) {
      const char* const from = parts.data + (part * rows + row) * width * bytes;
      memcpy(to + begin * bytes, from, std::min(width, columns - begin) * bytes);
    }
  });
}

void CpuDevice::sample(const TensorView& out, const TensorView& logits, const SampleInput& in) {
  expectSample(out, logits, in);
  const int64_t rows = logits.size[0], vocabulary = logits.size[1];
  pool_.run(static_cast<int>(rows), [&](int row, int) {
    const int32_t* const seed = in.seed.i32() + 2 * row;
    const SampleParams params{in.temperature.f32()[row],
                              in.topK.i32()[row],
                              in.topP.f32()[row],
                              in.minP.f32()[row],
                              {static_cast<uint32_t>(seed[0]), static_cast<uint32_t>(seed[1])},
                              static_cast<uint32_t>(in.position.i32()[row])};
    const float* const line = logits.f32() + row * logits.stride[0];
    out.i32()[row] = Sampler(*isa_.kernels, line, vocabulary, params).draw();
  });
}

}  // namespace nanovllm

// The op list: checks that tensors fit, and calls the kernel for them.
#include <tuple>

#include "cuda/device.h"
#include "expect.h"

namespace nanovllm::cuda {

void CudaDevice::expectHalf(const char* op, const char* name, const TensorView& tensor, int rank,
                            const TensorView& like) const {
  expect(op, name, tensor, rank, like.dtype);
  if (tensor.dtype != DType::kBFloat16 && tensor.dtype != DType::kFloat16)
    fail(op, name, "bfloat16 or float16", tensor.describe());
}

void CudaDevice::embedding(const TensorView& out, const TensorView& ids, const TensorView& weight,
                           std::optional<int64_t> firstRow) {
  gather("embedding", out, weight, ids, firstRow.value_or(0));
}

void CudaDevice::gatherRows(const TensorView& out, const TensorView& x, const TensorView& rows) {
  gather("gatherRows", out, x, rows, 0);
}

void CudaDevice::gather(const char* op, const TensorView& out, const TensorView& table, const TensorView& ids,
                        int64_t firstRow) {
  expectHalf(op, "out", out, 2, table);
  expectHalf(op, "the table of rows", table, 2, table);
  expectSize(op, "columns of out", out.size[1], table.size[1]);
  expectInts(op, "the numbers of rows", ids, out.size[0]);
  cuda::gatherRows(launch_, out, table, ids, firstRow);
}

void CudaDevice::linear(const GemvArgs& args) {
  const char* const op = "linear";
  const auto& [out, x, weight, bias] = std::tie(args.out, args.x, args.weight, args.bias);
  expectHalf(op, "x", x, 2, weight);
  expectHalf(op, "weight", weight, 2, weight);
  expect(op, "out", out, 2, out.dtype == DType::kFloat32 ? DType::kFloat32 : x.dtype);
  expectSize(op, "rows of out", out.size[0], x.size[0]);
  expectSize(op, "columns of x", x.size[1], weight.size[1]);
  expectSize(op, "columns of out", out.size[1], args.swiglu ? weight.size[0] / 2 : weight.size[0]);
  // 16-byte loads: every row must begin at a multiple of eight elements.
  if (x.size[1] % 8 != 0 || x.stride[0] % 8 != 0 || weight.stride[0] % 8 != 0)
    fail(op, "the inputs of a layer", "a multiple of 8", std::to_string(x.size[1]));
  if (bias.data) expectVector(op, "bias", bias, weight.size[0]);
  if (!options_.batchInvariant && x.size[0] <= kGemvMaxRows) {
    gemv(launch_, args);
  } else if (args.swiglu) {
    fail(op, "a fused layer", format("at most %d rows", kGemvMaxRows), std::to_string(x.size[0]));
  } else if (gemm_) {
    gemm_->run(launch_, args);
    if (bias.data) addBias(launch_, out, bias);
  } else {
    gemmMma(launch_, args);
  }
}

void CudaDevice::rmsNorm(const TensorView& out, const TensorView& x, const TensorView& weight, float eps) {
  const char* const op = "rmsNorm";
  const int rank = x.rank == 3 ? 3 : 2;
  expectHalf(op, "x", x, rank, x);
  expectHalf(op, "out", out, rank, x);
  for (int i = 0; i < rank; i++) expectSize(op, "a dimension of out", out.size[i], x.size[i]);
  expectVector(op, "weight", weight, x.size[rank - 1]);
  cuda::rmsNorm(launch_, out, x, weight, eps);
}

void CudaDevice::siluAndMul(const TensorView& out, const TensorView& x) {
  const char* const op = "siluAndMul";
  expectHalf(op, "out", out, 2, x);
  expectHalf(op, "x", x, 2, x);
  expectSize(op, "rows of out", out.size[0], x.size[0]);
  expectSize(op, "columns of x", x.size[1], 2 * out.size[1]);
  cuda::siluAndMul(launch_, out, x);
}

namespace {

void expectRotary(const char* op, const TensorView& q, const TensorView& k, const TensorView& positions,
                  const TensorView& cosSin) {
  expect(op, "cosSin", cosSin, 2, DType::kFloat32);
  expectSize(op, "rows of k", k.size[0], q.size[0]);
  expectSize(op, "the head size of k", k.size[2], q.size[2]);
  expectSize(op, "columns of cosSin", cosSin.size[1], q.size[2]);
  expectInts(op, "positions", positions, q.size[0]);
}

void expectCaches(const char* op, const TensorView& k, const TensorView& v, const TensorView& kCache,
                  const TensorView& vCache) {
  for (const TensorView* cache : {&kCache, &vCache}) {
    expect(op, "a cache", *cache, 4, k.dtype);
    if (!cache->isContiguous()) fail(op, "a cache", "a dense tensor", cache->describe());
    for (int i = 0; i < 4; i++) expectSize(op, "a dimension of vCache", cache->size[i], kCache.size[i]);
    for (int i = 1; i < 3; i++) expectSize(op, "heads of a cache", cache->size[i + 1], k.size[i]);
  }
  for (int i = 0; i < 3; i++) expectSize(op, "a dimension of v", v.size[i], k.size[i]);
}

}  // namespace

void CudaDevice::rotaryEmbedding(const TensorView& q, const TensorView& k, const TensorView& positions,
                                 const TensorView& cosSin) {
  const char* const op = "rotaryEmbedding";
  expectHalf(op, "q", q, 3, q);
  expectHalf(op, "k", k, 3, q);
  expectRotary(op, q, k, positions, cosSin);
  cuda::rotaryEmbedding(launch_, q, k, positions, cosSin);
}

void CudaDevice::storeKvCache(const TensorView& k, const TensorView& v, const TensorView& kCache,
                              const TensorView& vCache, const TensorView& slots) {
  const char* const op = "storeKvCache";
  expectHalf(op, "k", k, 3, k);
  expectHalf(op, "v", v, 3, k);
  expectCaches(op, k, v, kCache, vCache);
  expectInts(op, "slotMapping", slots, k.size[0]);
  cuda::storeKvCache(launch_, k, v, kCache, vCache, slots);
}

void CudaDevice::qkNormRopeStore(const QkNormRopeStore& args) {
  const char* const op = "qkNormRopeStore";
  const int64_t headDim = args.q.size[2];
  expectHalf(op, "q", args.q, 3, args.q);
  expectHalf(op, "k", args.k, 3, args.q);
  expectHalf(op, "v", args.v, 3, args.q);
  expectVector(op, "qWeight", args.qWeight, headDim);
  expectVector(op, "kWeight", args.kWeight, headDim);
  expectRotary(op, args.q, args.k, args.positions, args.cosSin);
  expectCaches(op, args.k, args.v, args.kCache, args.vCache);
  expectInts(op, "slotMapping", args.slots, args.k.size[0]);
  cuda::qkNormRopeStore(launch_, args);
}

namespace {

/// The heads of q, k, v and out fit together. `headsAt` is where k and v have their heads.
void expectHeads(const char* op, const TensorView& out, const TensorView& q, const TensorView& k,
                 const TensorView& v, int headsAt) {
  for (int i = 0; i < 3; i++) expectSize(op, "a dimension of out", out.size[i], q.size[i]);
  if (!out.isContiguous()) fail(op, "out", "a dense tensor", out.describe());
  for (int i = 0; i <= headsAt + 1; i++) expectSize(op, "a dimension of v", v.size[i], k.size[i]);
  expectSize(op, "the head size of k", k.size[headsAt + 1], q.size[2]);
  const int64_t kvHeads = k.size[headsAt];
  if (kvHeads < 1 || q.size[1] % kvHeads != 0)
    fail(op, "query heads", "a multiple of " + std::to_string(kvHeads), std::to_string(q.size[1]));
  if (q.size[2] > 256 || q.size[2] % 8 != 0)
    fail(op, "the head size", "a multiple of 8, at most 256", std::to_string(q.size[2]));
}

}  // namespace

PrefillKernel CudaDevice::prefillKernel(const PrefillArgs& args) const {
  if (options_.batchInvariant) return prefillMma;
  const bool hopper = prefillWgmmaSupports(launch_, args);
  if (prefill_ && (prefill_ != prefillWgmma || hopper)) return prefill_;
  return hopper ? prefillWgmma : prefillMma;
}

void CudaDevice::attnVarlen(const TensorView& cuSeqlensQ, const TensorView& cuSeqlensK, PrefillArgs args,
                            const SdpaWorkspace* workspace) {
  const char* const op = "attnVarlen";
  const int kvRank = args.blockTables ? 4 : 3;
  expectHalf(op, "q", args.q, 3, args.q);
  expectHalf(op, "out", args.out, 3, args.q);
  expectHalf(op, "k", args.k, kvRank, args.q);
  expectHalf(op, "v", args.v, kvRank, args.q);
  expectHeads(op, args.out, args.q, args.k, args.v, kvRank - 2);
  expectInts(op, "cuSeqlensQ", cuSeqlensQ, args.batch + 1);
  expectInts(op, "cuSeqlensK", cuSeqlensK, args.batch + 1);
  args.cuSeqlensQ = cuSeqlensQ.i32();
  args.cuSeqlensK = cuSeqlensK.i32();
  if (workspace) {
    sdpaMathPrefill(launch_, args, *workspace);
  } else {
    prefillKernel(args)(launch_, args);
  }
}

void CudaDevice::attnWithKvCache(const TensorView& contextLens, DecodeArgs args,
                                 const SdpaWorkspace* workspace) {
  const char* const op = "attnWithKvCache";
  expectHalf(op, "q", args.q, 3, args.q);
  expectHalf(op, "out", args.out, 3, args.q);
  expectHalf(op, "kCache", args.kCache, 4, args.q);
  expectHalf(op, "vCache", args.vCache, 4, args.q);
  expectHeads(op, args.out, args.q, args.kCache, args.vCache, 2);
  expectInts(op, "contextLens", contextLens, args.q.size[0]);
  args.contextLens = contextLens.i32();
  args.scratch = decodeScratch_;
  args.scratchBytes = kDecodeScratchBytes;
  if (workspace) {
    sdpaMathDecode(launch_, args, *workspace);
  } else if (options_.batchInvariant) {
    decodeAsPrefill(launch_, args);
  } else {
    (decode_ ? decode_ : decodePacked)(launch_, args);
  }
}

void CudaDevice::concatColumns(const TensorView& out, const TensorView& parts) {
  expectConcat(out, parts);
  cuda::concatColumns(launch_, out, parts);
}

void CudaDevice::sample(const TensorView& out, const TensorView& logits, const SampleInput& input) {
  expectSample(out, logits, input);
  cuda::sample(launch_, out, logits, input, sampleScratch_, kSampleScratchBytes);
}

void CudaDevice::gatherTokens(const TensorView& out, const TensorView& table, const TensorView& slots) {
  expectInts("gatherTokens", "out", out, slots.size[0]);
  expectInts("gatherTokens", "table", table, table.size[0]);
  expectInts("gatherTokens", "slots", slots, slots.size[0]);
  cuda::gatherTokens(launch_, out, table, slots);
}

void CudaDevice::scatterTokens(const TensorView& table, const TensorView& values, const TensorView& slots) {
  expectInts("scatterTokens", "table", table, table.size[0]);
  expectInts("scatterTokens", "values", values, slots.size[0]);
  expectInts("scatterTokens", "slots", slots, slots.size[0]);
  cuda::scatterTokens(launch_, table, values, slots);
}

}  // namespace nanovllm::cuda

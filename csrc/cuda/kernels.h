// Every kernel of the cuda backend, as the device calls it: plain C++, so that only the .cu files need nvcc.
// Shapes and meanings are those of src/tensor/kernels.ts; here they have been checked already (device.cc).
//
// Activations, weights and the KV cache are bfloat16 or float16 (all of one call alike); norms' gains,
// biases, the rotary table and logits are float32; additions accumulate in float32. Rows may be strided,
// elements within a row are dense.
#pragma once

#include <cuda_runtime_api.h>

#include "expect.h"
#include "tensor.h"

namespace nanovllm::cuda {

/// Where and how to launch.
struct Launch {
  cudaStream_t stream = nullptr;
  /// Compute capability times ten that the kernels were compiled for: 80 (A100), 90 (H100), …
  int arch = 0;
  int multiprocessors = 0;
  /// Programmatic dependent launch (compute capability 9.0): a kernel may start while the one before it still
  /// runs, and waits for its results only where it needs them (launch.cuh).
  bool programmatic = false;
};

/// See Launch::arch. Throws where there are no kernels for the current GPU.
int compiledArch();

// --- norms, activation, positions, cache

void rmsNorm(const Launch&, const TensorView& out, const TensorView& x, const TensorView& weight, float eps);
void siluAndMul(const Launch&, const TensorView& out, const TensorView& x);
void rotaryEmbedding(const Launch&, const TensorView& q, const TensorView& k, const TensorView& positions,
                     const TensorView& cosSin);
void storeKvCache(const Launch&, const TensorView& k, const TensorView& v, const TensorView& kCache,
                  const TensorView& vCache, const TensorView& slots);

/// Head norms of q and k, rotary positions, and the store of k and v into the cache, in one pass over the
/// projection. q is updated in place; k's and v's only use is the cache, so the projection's own k and v are
/// left as they were.
struct QkNormRopeStore {
  TensorView q, k, v;           // [T, Hq, D], [T, Hkv, D], [T, Hkv, D]: views of one projection
  TensorView qWeight, kWeight;  // float32 [D]
  float eps;
  TensorView positions, cosSin;      // int32 [T], float32 [P, D]
  TensorView kCache, vCache, slots;  // [NB, BS, Hkv, D] twice, int32 [T]
};
void qkNormRopeStore(const Launch&, const QkNormRopeStore&);

/// out[R, H] = rows ids[R] of table[V, H]: the embedding, and the choice of rows for the LM head. The table's
/// rows may be `firstRow …` of a larger one; other ids give zeros.
void gatherRows(const Launch&, const TensorView& out, const TensorView& table, const TensorView& ids,
                int64_t firstRow);
/// Row b of out[B, V] = parts[0][b], parts[1][b], … of parts[n, B, W], cut off after V.
void concatColumns(const Launch&, const TensorView& out, const TensorView& parts);
/// Rows of checkpoint bytes (device memory, dense, `source`) into dense `target` elements of another dtype.
void convert(const Launch&, void* target, DType targetType, const void* source, DType sourceType,
             int64_t count);

/// out[B] = table[slots[B]] (0 for slot -1), and table[slots[B]] = values[B] (slot -1 skips); all int32.
void gatherTokens(const Launch&, const TensorView& out, const TensorView& table, const TensorView& slots);
void scatterTokens(const Launch&, const TensorView& table, const TensorView& values, const TensorView& slots);

// --- linear layers

/// out[T, N] = x[T, K] · weight[N, K]ᵀ + bias[N], or out += that. `bias.data` is null without a bias. `out`
/// has x's dtype or float32.
struct LinearArgs {
  TensorView out, x, weight, bias;
  bool accumulate = false;
};

/// Rows up to which reading the weights is all that takes time, and gemv is the fastest.
constexpr int kGemvMaxRows = 8;
/// SwiGLU can be done on gemv's way out: in decoding that is a kernel with hardly any work, which costs its
/// launch and a round trip to memory. (An RMS norm on the way in was tried too: every block has to do it
/// again, and nothing was gained.)
struct GemvArgs : LinearArgs {
  /// The weight's rows are gate's, then up's; out[T, N / 2] = silu(gate) · up. No bias.
  bool swiglu = false;
};
/// T <= kGemvMaxRows, K a multiple of 8. A row's result does not depend on the other rows.
void gemv(const Launch&, const GemvArgs&);
/// Tensor cores without a library, any shape with K a multiple of 8. Its tiles are the same for every T, so
/// that a row's bits do not depend on the other rows: what `batchInvariant` uses, and what runs where
/// cuBLASLt is missing.
void gemmMma(const Launch&, const LinearArgs&);

// --- attention

/// src/tensor/kernels.ts, AttnVarlenArgs. All int32 arrays are dense device memory.
struct PrefillArgs {
  TensorView out, q;           // [T, Hq, D]; q's rows are strided
  TensorView k, v;             // [S, Hkv, D], or with block tables the cache [NB, BS, Hkv, D]
  const int32_t* cuSeqlensQ;   // [B + 1]
  const int32_t* cuSeqlensK;   // [B + 1]
  const int32_t* blockTables;  // [B, blockTableStride]; null: k and v are contiguous
  int64_t blockTableStride;
  int batch, maxSeqlenQ, maxSeqlenK;
  float scale;
  bool causal;

  int heads() const { return static_cast<int>(q.size[1]); }
  int kvHeads() const { return static_cast<int>(k.size[k.rank - 2]); }
  int headDim() const { return static_cast<int>(q.size[2]); }
  int blockSize() const { return blockTables ? static_cast<int>(k.size[1]) : 0; }
};

/// One query a sequence over the paged cache.
struct DecodeArgs {
  TensorView out, q;           // [B, Hq, D]
  TensorView kCache, vCache;   // [NB, BS, Hkv, D]
  const int32_t* contextLens;  // [B]; 0 gives zeros
  const int32_t* blockTables;  // [B, blockTableStride]
  int64_t blockTableStride;
  int maxContextLen;
  float scale;
  /// Device memory for partial results; its first kDecodeCounters int32 are zero before and after every
  /// launch.
  void* scratch;
  size_t scratchBytes;

  int batch() const { return static_cast<int>(q.size[0]); }
  int heads() const { return static_cast<int>(q.size[1]); }
  int kvHeads() const { return static_cast<int>(kCache.size[2]); }
  int headDim() const { return static_cast<int>(q.size[2]); }
  int blockSize() const { return static_cast<int>(kCache.size[1]); }
};
constexpr int kDecodeCounters = 1 << 16;
constexpr size_t kDecodeScratchBytes = size_t{64} << 20;

// The ladders: every rung computes the same, each faster than the one before. The engine takes the highest
// that `supports` says can run; the others are for reading, tests and benchmarks.
using PrefillKernel = void (*)(const Launch&, const PrefillArgs&);
using DecodeKernel = void (*)(const Launch&, const DecodeArgs&);

void prefillScalar(const Launch&, const PrefillArgs&);  // one warp a query: online softmax, nothing shared
void prefillTiled(const Launch&, const PrefillArgs&);   // tiles of keys and values in shared memory
void prefillMma(const Launch&, const PrefillArgs&);     // tensor cores (mma.sync), cp.async pipeline
void prefillWgmma(const Launch&, const PrefillArgs&);   // Hopper: wgmma, TMA, specialised warps
/// Whether prefillWgmma takes these arguments (arch 90, head size 64 or 128, …); prefillMma takes all.
bool prefillWgmmaSupports(const Launch&, const PrefillArgs&);

void decodeWarp(const Launch&, const DecodeArgs&);   // one warp a head walks the whole context
void decodeSplit(const Launch&, const DecodeArgs&);  // the context split over blocks, then merged
void decodePacked(const Launch&,
                  const DecodeArgs&);  // and all heads of a group share each key, in wide loads

/// `sdpa.math`: gathers K and V into dense buffers and materialises the scores. Workspace float32.
struct SdpaWorkspace {
  TensorView k, v, scores;
};
void sdpaMathPrefill(const Launch&, const PrefillArgs&, const SdpaWorkspace&);
void sdpaMathDecode(const Launch&, const DecodeArgs&, const SdpaWorkspace&);

// --- sampling

/// out int32 [B] from float32 logits [B, V]; all parameters on the device.
void sample(const Launch&, const TensorView& out, const TensorView& logits, const SampleInput&, void* scratch,
            size_t scratchBytes);
constexpr size_t kSampleScratchBytes = size_t{16} << 20;

}  // namespace nanovllm::cuda

// Decoding as a prefill of one query a sequence, for `batchInvariant`: a token's attention then has the same
// bits whether its query came alone (decode), in a chunk, or in a whole prompt that is computed again after a
// preemption, because one kernel does all of them. What it needs is cuSeqlensQ = 0, 1, 2, … and cuSeqlensK,
// the running totals of the context lengths.
#include "cuda/device.h"
#include "cuda/launch.cuh"
#include "cuda/numbers.cuh"

namespace nanovllm::cuda {
namespace {

constexpr int kThreads = 1024;

/// One block. Each thread adds up a run of neighbouring lengths; a scan over the threads' sums gives where
/// each run starts.
__global__ void cumulativeLengths(int32_t* cuSeqlensQ, int32_t* cuSeqlensK, const int32_t* contextLens,
                                  int batch) {
  __shared__ int32_t sums[kThreads];
  launchDependents();
  waitForPrevious();
  const int thread = threadIdx.x, run = (batch + kThreads - 1) / kThreads;
  const int begin = min(thread * run, batch), end = min(begin + run, batch);
  int32_t sum = 0;
  for (int b = begin; b < end; b++) sum += contextLens[b];
  sums[thread] = sum;
  __syncthreads();
  for (int distance = 1; distance < kThreads; distance *= 2) {  // Hillis & Steele 1986
    const int32_t before = thread >= distance ? sums[thread - distance] : 0;
    __syncthreads();
    sums[thread] += before;
    __syncthreads();
  }
  int32_t total = sums[thread] - sum;
  for (int b = begin; b < end; b++) {
    cuSeqlensQ[b] = b;
    cuSeqlensK[b] = total;
    total += contextLens[b];
  }
  if (thread == 0) cuSeqlensQ[batch] = batch;
  if (end == batch && begin < end) cuSeqlensK[batch] = total;
}

}  // namespace

void decodeAsPrefill(const Launch& on, const DecodeArgs& args) {
  const int batch = args.batch();
  auto* const cuSeqlensQ = static_cast<int32_t*>(args.scratch) + kDecodeCounters;
  int32_t* const cuSeqlensK = cuSeqlensQ + batch + 1;
  launch(on, "cumulativeLengths", cumulativeLengths, 1, kThreads, 0, cuSeqlensQ, cuSeqlensK, args.contextLens,
         batch);
  PrefillArgs prefill{};
  prefill.out = args.out;
  prefill.q = args.q;
  prefill.k = args.kCache;
  prefill.v = args.vCache;
  prefill.cuSeqlensQ = cuSeqlensQ;
  prefill.cuSeqlensK = cuSeqlensK;
  prefill.blockTables = args.blockTables;
  prefill.blockTableStride = args.blockTableStride;
  prefill.batch = batch;
  prefill.maxSeqlenQ = 1;
  prefill.maxSeqlenK = args.maxContextLen;
  prefill.scale = args.scale;
  prefill.causal = true;
  prefillMma(on, prefill);
}

}  // namespace nanovllm::cuda

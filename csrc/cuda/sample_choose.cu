// The sampler's second kernel: one block a row. For greedy and unfiltered rows it takes the best of the
// chunks' winners, which is the work of one warp; for the others it filters (sample_filter.cuh).
#include "cuda/sample_filter.cuh"

namespace nanovllm::cuda {
namespace {

/// The winner of the chunks' winners; called by one warp.
__device__ Best bestOfChunks(const ChunkResult* results, int chunks, const SampleRow& row) {
  const int lane = threadIdx.x;
  float pivot = -INFINITY;
  for (int c = lane; c < chunks; c += kWarp) pivot = fmaxf(pivot, results[c].pivot);
  pivot = warpMax(pivot);
  Best best;
  for (int c = lane; c < chunks; c += kWarp) {
    // Scores were relative to the chunk's pivot; 0 · temperature for greedy ones.
    const float shift = row.greedy() ? 0 : (results[c].pivot - pivot) * row.inverseTemperature;
    best.consider(results[c].score + shift, results[c].id);
  }
  return warpBest(best);
}

/// Block b finishes row b.
__global__ void __launch_bounds__(kChooseThreads, 2) chooseToken(const SampleCall call) {
  extern __shared__ __align__(16) unsigned char shared[];
  launchDependents();
  waitForPrevious();
  const int b = blockIdx.x;
  const SampleRow row = call.parameters(b);
  const ChunkResult* results = call.results + static_cast<int64_t>(b) * call.chunks;
  Best best;
  if (row.greedy() || !row.filtered()) {
    if (threadIdx.x >= kWarp) return;
    best = bestOfChunks(results, call.chunks, row);
  } else {
    Filter filter{*reinterpret_cast<ChooseMemory*>(shared),
                  call.row(b),
                  call.groupMax + static_cast<int64_t>(b) * call.groups,
                  results,
                  call.vocabulary,
                  call.groups,
                  call.chunks,
                  call.massBits,
                  row};
    best = filter.draw();
  }
  // No token at all: every logit is NaN or -inf.
  if (threadIdx.x == 0) call.out[b] = best.id == kNoToken ? 0 : static_cast<int32_t>(best.id);
}

}  // namespace

void chooseTokens(const Launch& on, const SampleCall& call, int rows) {
  launch(on, "sample, choose", chooseToken, rows, kChooseThreads, sizeof(ChooseMemory), call);
}

}  // namespace nanovllm::cuda

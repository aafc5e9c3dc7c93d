// Decode attention, second rung: the context is cut into chunks, and each is another block's work.
//
// This is Flash-Decoding (Dao, Haziza, Massa, Sizov 2023): softmax attention over two sets of keys can be
// computed apart and merged, if each part keeps its largest score and the sum of its exponentials. So a
// single long sequence fills the GPU, where decodeWarp had one warp a head. In a block, four warps again take
// every fourth key of the chunk.
//
// The number of chunks must not depend on the context lengths, which only the device knows (a CUDA graph
// launches the same grid at every step): the grid is made for the longest possible context, and blocks beyond
// a sequence's end do nothing. Chunks have one size, whatever the batch: a row's bits do not depend on the
// other rows.
#include "cuda/attention/decode.cuh"

namespace nanovllm::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kChunkKeys = 256;

/// What the chunks of one (sequence, head) leave for the merge.
struct Partials {
  float* out;      // [B, Hq, chunks, D]
  float2* maxSum;  // [B, Hq, chunks]
  int chunks, chunkKeys;
};

template <class T, int kPerLane>
__global__ void __launch_bounds__(kWarps* kWarp) chunkKernel(const Decode<T> a, const Partials partials) {
  launchDependents();
  waitForPrevious();
  const int chunk = blockIdx.x, head = blockIdx.y, b = blockIdx.z;
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const int begin = chunk * partials.chunkKeys, end = min(begin + partials.chunkKeys, a.lengths[b]);
  if (begin >= end) return;

  WarpSoftmax<kPerLane> state;
  state.walk(a, b, head, begin + warp, end, kWarps);

  // Warp 0 always has a key; it merges the others' states into its own.
  __shared__ float outs[kWarps][kPerLane][kWarp];
  __shared__ float2 maxSums[kWarps];
#pragma unroll
  for (int i = 0; i < kPerLane; i++) outs[warp][i][lane] = state.out[i];
  if (lane == 0) maxSums[warp] = {state.max, state.sum};
  __syncthreads();
  if (warp > 0) return;
  for (int w = 1; w < kWarps; w++) {
    float other[kPerLane];
#pragma unroll
    for (int i = 0; i < kPerLane; i++) other[i] = outs[w][i][lane];
    state.add(maxSums[w].x, maxSums[w].y, other);
  }
  const int64_t at = (int64_t{b} * a.heads + head) * partials.chunks + chunk;
#pragma unroll
  for (int i = 0; i < kPerLane; i++) {
    const int d = i * kWarp + lane;
    if (d < a.dim) partials.out[at * a.dim + d] = state.out[i];
  }
  if (lane == 0) partials.maxSum[at] = {state.max, state.sum};
}

/// One warp a (sequence, head), chunks in order: the same sum at every run.
template <class T, int kPerLane>
__global__ void __launch_bounds__(kWarp) mergeKernel(const Decode<T> a, const Partials partials) {
  launchDependents();
  waitForPrevious();
  const int head = blockIdx.x, b = blockIdx.y, lane = threadIdx.x;
  const int used = (a.lengths[b] + partials.chunkKeys - 1) / partials.chunkKeys;
  WarpSoftmax<kPerLane> state;
  for (int chunk = 0; chunk < used; chunk++) {
    const int64_t at = (int64_t{b} * a.heads + head) * partials.chunks + chunk;
    float other[kPerLane];
#pragma unroll
    for (int i = 0; i < kPerLane; i++) {
      const int d = i * kWarp + lane;
      other[i] = d < a.dim ? partials.out[at * a.dim + d] : 0.0f;
    }
    const float2 maxSum = partials.maxSum[at];
    state.add(maxSum.x, maxSum.y, other);
  }
  state.write(a, b, head);
}

/// As many chunks as the longest context needs; larger ones where the scratch memory would not hold them
/// (only then does the cut depend on the batch).
Partials partialsFor(const DecodeArgs& a) {
  const size_t rows = static_cast<size_t>(a.batch()) * a.heads();
  const size_t counters = kDecodeCounters * sizeof(int32_t), bytes = a.scratchBytes - counters;
  int chunkKeys = kChunkKeys;
  const auto chunks = [&] { return (a.maxContextLen + chunkKeys - 1) / chunkKeys; };
  while (chunks() > 1 && rows * chunks() * (a.headDim() * sizeof(float) + sizeof(float2)) > bytes)
    chunkKeys *= 2;
  char* const memory = static_cast<char*>(a.scratch) + counters;
  auto* const maxSum = reinterpret_cast<float2*>(memory);
  return {reinterpret_cast<float*>(maxSum + rows * chunks()), maxSum, chunks(), chunkKeys};
}

}  // namespace

void decodeSplit(const Launch& on, const DecodeArgs& a) {
  dispatchPerLane(a, [&](auto zero, auto perLane) {
    using T = decltype(zero);
    const Decode<T> args = decodeFor<T>(a);
    const Partials partials = partialsFor(a);
    launch(on, "decodeSplit", chunkKernel<T, perLane()>, dim3(partials.chunks, a.heads(), a.batch()),
           kWarps * kWarp, 0, args, partials);
    launch(on, "decodeSplit", mergeKernel<T, perLane()>, dim3(a.heads(), a.batch()), kWarp, 0, args,
           partials);
  });
}

}  // namespace nanovllm::cuda

// Prefill attention, rung 1: one warp for each query row of each head.
//
// The warp walks the keys one by one. Eight numbers of the head lie in each lane, so a key is one 16-byte
// load a lane, the score is a product summed over the warp, and the online softmax (prefill.cuh) folds the
// key's value into eight accumulators a lane. Nothing is shared: n queries read every key n times, from the
// L2 cache at best, and each key costs five shuffles in a chain that nothing overlaps. The rungs above remove
// one after the other.
#include "cuda/attention/prefill.cuh"
#include "cuda/launch.cuh"

namespace nanovllm::cuda {
namespace {

constexpr int kRowsPerBlock = 4;
constexpr int kLaneWidth = 8;  // numbers a lane holds: head sizes up to 256

template <class T>
__global__ void prefillScalarKernel(PrefillParams<T> p) {
  launchDependents();
  waitForPrevious();
  const int lane = threadIdx.x % kWarp, b = blockIdx.y;
  const int row = blockIdx.x * kRowsPerBlock + threadIdx.x / kWarp;
  const int query = row / p.heads, head = row % p.heads;
  const PrefillSequence sequence = p.sequence(b);
  if (query >= sequence.queries) return;

  const bool holds = lane * kLaneWidth < p.headDim;
  const int64_t token = sequence.firstQuery + query;
  float q[kLaneWidth] = {}, o[kLaneWidth] = {};
  if (holds) unpack<T>(*reinterpret_cast<const uint4*>(p.qRow(token, head) + lane * kLaneWidth), q);

  const int kvHead = head / (p.heads / p.kvHeads);
  const int64_t inRow = int64_t{kvHead} * p.headDim + lane * kLaneWidth;
  float m = -INFINITY, l = 0;
  const int visible = sequence.visible(query, p.causal);
  for (int j = 0; j < visible; j++) {
    const auto at = p.keyOffsets(b, sequence.firstKey, j);
    float k[kLaneWidth] = {}, v[kLaneWidth] = {};
    if (holds) {
      unpack<T>(*reinterpret_cast<const uint4*>(p.k + at.k + inRow), k);
      unpack<T>(*reinterpret_cast<const uint4*>(p.v + at.v + inRow), v);
    }
    float score = 0;
#pragma unroll
    for (int i = 0; i < kLaneWidth; i++) score += q[i] * k[i];
    score = warpSum(score);

    const float now = fmaxf(m, score);
    const float rescale = rescaleFactor(m, now, p.scaleLog2);
    const float weight = exp2Fast((score - now) * p.scaleLog2);
    m = now;
    l = l * rescale + weight;
#pragma unroll
    for (int i = 0; i < kLaneWidth; i++) o[i] = o[i] * rescale + weight * v[i];
  }

  const float norm = l > 0 ? 1 / l : 0;  // a query that sees nothing gives zeros
#pragma unroll
  for (int i = 0; i < kLaneWidth; i++) o[i] *= norm;
  if (holds) *reinterpret_cast<uint4*>(p.outRow(token, head) + lane * kLaneWidth) = pack<T>(o);
}

}  // namespace

void prefillScalar(const Launch& on, const PrefillArgs& a) {
  dispatch(a.q.dtype, [&](auto zero) {
    using T = decltype(zero);
    const int blocks = (a.maxSeqlenQ * a.heads() + kRowsPerBlock - 1) / kRowsPerBlock;
    launch(on, "prefillScalar", prefillScalarKernel<T>, dim3(blocks, a.batch), dim3(kRowsPerBlock * kWarp), 0,
           PrefillParams<T>(a));
  });
}

}  // namespace nanovllm::cuda

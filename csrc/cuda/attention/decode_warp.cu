// Decode attention, first rung: one warp walks the whole context of one query head, key by key.
//
//   score = q·k · scale;  out = Σ softmax(score)·v        over the keys of the paged cache
//
// The warp's lanes share a head's dimensions, so that a key is one coalesced read and its score one sum over
// the warp. Online softmax means that scores are never stored, and a key and its value are read together.
//
// What it wastes: with one sequence of 16 heads, 16 warps run on a GPU that has room for eight thousand. Each
// waits for memory at every key. And the heads of a group read the same keys and values again, each for
// itself.
#include "cuda/attention/decode.cuh"

namespace nanovllm::cuda {
namespace {

constexpr int kWarps = 4;

template <class T, int kPerLane>
__global__ void __launch_bounds__(kWarps* kWarp) warpKernel(const Decode<T> a) {
  launchDependents();
  waitForPrevious();
  const int head = blockIdx.x * kWarps + threadIdx.x / kWarp, b = blockIdx.y;
  if (head >= a.heads) return;
  WarpSoftmax<kPerLane> state;
  state.walk(a, b, head, 0, a.lengths[b], 1);
  state.write(a, b, head);
}

}  // namespace

void decodeWarp(const Launch& on, const DecodeArgs& a) {
  dispatchPerLane(a, [&](auto zero, auto perLane) {
    using T = decltype(zero);
    const dim3 grid((a.heads() + kWarps - 1) / kWarps, a.batch());
    launch(on, "decodeWarp", warpKernel<T, perLane()>, grid, kWarps * kWarp, 0, decodeFor<T>(a));
  });
}

}  // namespace nanovllm::cuda

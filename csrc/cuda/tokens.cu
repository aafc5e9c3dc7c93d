// The last token of every running sequence stays on the device: a step puts what it drew into a table, and
// the next step takes its inputs from there. So a step can be launched before anyone on the host knows the
// tokens of the one before.
#include "cuda/launch.cuh"
#include "cuda/numbers.cuh"

namespace nanovllm::cuda {
namespace {

constexpr int kThreads = 256;

__global__ void gatherTokensKernel(int32_t* out, const int32_t* table, const int32_t* slots, int count) {
  launchDependents();
  waitForPrevious();
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < count) out[i] = slots[i] < 0 ? 0 : table[slots[i]];
}

__global__ void scatterTokensKernel(int32_t* table, const int32_t* values, const int32_t* slots, int count) {
  launchDependents();
  waitForPrevious();
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < count && slots[i] >= 0) table[slots[i]] = values[i];
}

}  // namespace

void gatherTokens(const Launch& on, const TensorView& out, const TensorView& table, const TensorView& slots) {
  const auto count = static_cast<int>(slots.size[0]);
  launch(on, "gatherTokens", gatherTokensKernel, (count + kThreads - 1) / kThreads, kThreads, 0, out.i32(),
         table.i32(), slots.i32(), count);
}

void scatterTokens(const Launch& on, const TensorView& table, const TensorView& values,
                   const TensorView& slots) {
  const auto count = static_cast<int>(slots.size[0]);
  launch(on, "scatterTokens", scatterTokensKernel, (count + kThreads - 1) / kThreads, kThreads, 0,
         table.i32(), values.i32(), slots.i32(), count);
}

}  // namespace nanovllm::cuda

// out[T, N] += bias[N]. Qwen3 itself has no biases; where a checkpoint has them, the product was stored
// without.
#include <type_traits>

#include "cuda/gemm.h"
#include "cuda/launch.cuh"
#include "cuda/numbers.cuh"

namespace nanovllm::cuda {
namespace {

template <class T>
__global__ void addBiasKernel(T* out, int64_t stride, const float* bias, int columns) {
  launchDependents();
  waitForPrevious();
  const int column = blockIdx.y * blockDim.x + threadIdx.x;
  if (column >= columns) return;
  T* const element = out + blockIdx.x * stride + column;
  *element = fromFloat<T>(toFloat(*element) + bias[column]);
}

}  // namespace

void addBias(const Launch& on, const TensorView& out, const TensorView& bias) {
  constexpr int kThreads = 256;
  const auto columns = static_cast<int>(out.size[1]);
  const dim3 grid(static_cast<unsigned>(out.size[0]), (columns + kThreads - 1) / kThreads);
  const auto add = [&](auto* elements) {
    using T = std::remove_pointer_t<decltype(elements)>;
    launch(on, "addBias", addBiasKernel<T>, grid, kThreads, 0, elements, out.stride[0], bias.f32(), columns);
  };
  if (out.dtype == DType::kFloat32) return add(out.f32());
  dispatch(out.dtype, [&](auto zero) { add(out.as<decltype(zero)>()); });
}

}  // namespace nanovllm::cuda

// SwiGLU: out[T, I] = silu(x[:, :I]) · x[:, I:], silu(z) = z / (1 + e⁻ᶻ).
//
// Each output needs two inputs and a handful of instructions, so that only memory counts: eight outputs a
// thread, in 16-byte accesses.
#include "cuda/launch.cuh"
#include "cuda/rows.cuh"

namespace nanovllm::cuda {
namespace {

constexpr int kThreads = 128;

template <class T, bool kWide>
__global__ void siluAndMulKernel(Rows<T> out, Rows<T> x, int n) {
  const int i = (blockIdx.y * kThreads + threadIdx.x) * 8;
  const T* const row = x[blockIdx.x];
  launchDependents();
  waitForPrevious();
  if (i >= n) return;
  float gate[8], up[8];
  loadEight<kWide>(row + i, n - i, gate);
  loadEight<kWide>(row + n + i, n - i, up);
#pragma unroll
  for (int j = 0; j < 8; j++) gate[j] = __fdividef(gate[j], 1.0f + __expf(-gate[j])) * up[j];
  storeEight<kWide>(out[blockIdx.x] + i, n - i, gate);
}

}  // namespace

void siluAndMul(const Launch& on, const TensorView& out, const TensorView& x) {
  const int n = static_cast<int>(out.size[1]);
  const dim3 grid(static_cast<unsigned>(x.size[0]), (n + kThreads * 8 - 1) / (kThreads * 8));
  dispatch(x.dtype, [&](auto zero) {
    using T = decltype(zero);
    choose(isWide(out) && isWide(x, 2), [&](auto wide) {
      launch(on, "siluAndMul", siluAndMulKernel<T, wide.value>, grid, kThreads, 0, rowsOf<T>(out),
             rowsOf<T>(x), n);
    });
  });
}

}  // namespace nanovllm::cuda

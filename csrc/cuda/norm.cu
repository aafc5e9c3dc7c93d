// Root mean square norms: out = x / sqrt(mean(x²) + eps) · weight.
//
// A row is read once: it stays in registers, eight elements a thread, while the threads agree on its sum of
// squares. Rows up to 256 long (heads) take one warp, whose lanes exchange sums by shuffles; longer ones take
// a block, whose warps exchange theirs through shared memory. In decoding there are only a few rows and the
// kernel is all latency, so the gains, which no kernel writes, are loaded before waiting for the kernel that
// computes x.
#include "cuda/launch.cuh"
#include "cuda/rows.cuh"

namespace nanovllm::cuda {
namespace {

constexpr int kPerThread = 8;
constexpr int kRowsPerBlock = 4;  // rows short enough for a warp

/// The sum over the threads of one row: blockDim.x of them.
__device__ __forceinline__ float rowSum(float x) {
  x = warpSum(x);
  if (blockDim.x == kWarp) return x;
  __shared__ float sums[kWarp];
  if (threadIdx.x % kWarp == 0) sums[threadIdx.x / kWarp] = x;
  __syncthreads();
  float total = 0;
  for (int warp = 0; warp < blockDim.x / kWarp; warp++) total += sums[warp];
  return total;
}

/// blockDim.x threads a row, blockDim.y rows a block.
template <class T, bool kWide>
__global__ void normKernel(Rows<T> out, Rows<T> x, const float* weight, float eps, unsigned rows, int n) {
  const unsigned row = blockIdx.x * blockDim.y + threadIdx.y;
  const int first = threadIdx.x * kPerThread, stride = blockDim.x * kPerThread;
  float gain[8] = {};
  if (first < n) loadEight<kWide>(weight + first, n - first, gain);
  T *const source = x[row], *const target = out[row];
  launchDependents();
  waitForPrevious();
  if (row >= rows) return;  // whole warps: rows that share a block are a warp each

  float v[8], squares = 0;
  // Backwards, so that the pass below starts with the elements that are in the registers. Up to 8192 elements
  // those are all.
  for (int i = first + (n - 1 - first) / stride * stride; i >= first && i < n; i -= stride) {
    loadEight<kWide>(source + i, n - i, v);
#pragma unroll
    for (int j = 0; j < 8; j++) squares += v[j] * v[j];
  }

  const float scale = rsqrtf(rowSum(squares) / n + eps);
  for (int i = first; i < n; i += stride) {
    if (i != first) {
      loadEight<kWide>(source + i, n - i, v);
      loadEight<kWide>(weight + i, n - i, gain);
    }
#pragma unroll
    for (int j = 0; j < 8; j++) v[j] *= scale * gain[j];
    storeEight<kWide>(target + i, n - i, v);
  }
}

}  // namespace

void rmsNorm(const Launch& on, const TensorView& out, const TensorView& x, const TensorView& weight,
             float eps) {
  const int n = static_cast<int>(x.size[x.rank - 1]);
  const auto rows = static_cast<unsigned>(x.rank == 3 ? x.size[0] * x.size[1] : x.size[0]);
  const int warps = (n + kPerThread * kWarp - 1) / (kPerThread * kWarp);
  const dim3 block(kWarp * (warps < 32 ? warps : 32), warps == 1 ? kRowsPerBlock : 1);
  const dim3 grid((rows + block.y - 1) / block.y);
  dispatch(x.dtype, [&](auto zero) {
    using T = decltype(zero);
    choose(isWide(out) && isWide(x) && isWide(weight), [&](auto wide) {
      launch(on, "rmsNorm", normKernel<T, wide.value>, grid, block, 0, rowsOf<T>(out), rowsOf<T>(x),
             weight.f32(), eps, rows, n);
    });
  });
}

}  // namespace nanovllm::cuda

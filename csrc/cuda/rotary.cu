// Rotary position embedding, in place on q and k: the pair (i, i + D/2) of every head turns by the angle
// whose cosine and sine stand in the table's row of the token's position.
//
// A block takes one token, a thread eight pairs of one head at a time: two 16-byte loads from the head's
// halves, and the angles, which all heads share, come from the L1 cache after the first.
#include "cuda/launch.cuh"
#include "cuda/rows.cuh"

namespace nanovllm::cuda {
namespace {

constexpr int kThreads = 256;

template <class T, bool kWide>
__global__ void rotaryKernel(Rows<T> q, Rows<T> k, const int32_t* positions, const float* cosSin,
                             int64_t angleStride, int half) {
  launchDependents();
  waitForPrevious();
  const unsigned token = blockIdx.x;
  const float* const cosines = cosSin + positions[token] * angleStride;
  const float* const sines = cosines + half;
  const int parts = (half + 7) / 8;
  for (int task = threadIdx.x; task < (q.heads + k.heads) * parts; task += kThreads) {
    const unsigned head = task / parts;
    const int i = task % parts * 8, count = half - i;
    T* const low = (head < q.heads ? q[token * q.heads + head] : k[token * k.heads + head - q.heads]) + i;
    T* const high = low + half;
    float a[8], b[8], c[8], s[8];
    loadEight<kWide>(low, count, a);
    loadEight<kWide>(high, count, b);
    loadEight<kWide>(cosines + i, count, c);
    loadEight<kWide>(sines + i, count, s);
#pragma unroll
    for (int j = 0; j < 8; j++) {
      const float turned = a[j] * c[j] - b[j] * s[j];
      b[j] = b[j] * c[j] + a[j] * s[j];
      a[j] = turned;
    }
    storeEight<kWide>(low, count, a);
    storeEight<kWide>(high, count, b);
  }
}

}  // namespace

void rotaryEmbedding(const Launch& on, const TensorView& q, const TensorView& k, const TensorView& positions,
                     const TensorView& cosSin) {
  const dim3 grid(static_cast<unsigned>(q.size[0]));
  dispatch(q.dtype, [&](auto zero) {
    using T = decltype(zero);
    choose(isWide(q, 2) && isWide(k, 2) && isWide(cosSin, 2), [&](auto wide) {
      launch(on, "rotaryEmbedding", rotaryKernel<T, wide.value>, grid, kThreads, 0, rowsOf<T>(q),
             rowsOf<T>(k), positions.i32(), cosSin.f32(), cosSin.stride[0], static_cast<int>(q.size[2] / 2));
    });
  });
}

}  // namespace nanovllm::cuda

// What happens to a projection between its matrix product and attention, in one kernel: head norms of q and k
// (Qwen3), rotary positions, and the store of k and v into the paged cache. As four kernels each would read
// and write the same numbers again, and in decoding each would cost its launch and a trip to memory; here a
// head stays in the registers of a warp, in float32 from the load to the one rounding at the end.
//
// A warp takes one head. Lane i holds pairs of neighbours: elements 2i, 2i+1 of the head's lower half and the
// same two of its upper half, exactly what the rotation combines. Past D = 128 a lane holds a second such
// group.
#include "cuda/launch.cuh"
#include "cuda/rows.cuh"

namespace nanovllm::cuda {
namespace {

constexpr int kWarps = 4;

struct Params {
  const float *qWeight, *kWeight;
  float eps;
  const int32_t *positions, *slots;
  const float* cosSin;
  int64_t angleStride;
  int dim;
};

template <class T>
__device__ __forceinline__ float2 loadPair(const T* from) {
  return toFloat2(*reinterpret_cast<const typename Pair<T>::Type*>(from));
}

template <class T>
__device__ __forceinline__ void storePair(T* to, float2 x) {
  typename Pair<T>::Type pair;
  pair.x = fromFloat<T>(x.x);
  pair.y = fromFloat<T>(x.y);
  *reinterpret_cast<typename Pair<T>::Type*>(to) = pair;
}

/// Blocks: (token, four heads); heads count q's, then k's, then v's.
template <class T, int kGroups>
__global__ void __launch_bounds__(kWarps* kWarp)
    fusedKernel(Rows<T> q, Rows<T> k, Rows<T> v, T* kCache, T* vCache, Params p) {
  const unsigned token = blockIdx.x, index = blockIdx.y * kWarps + threadIdx.x / kWarp;
  const bool isQ = index < q.heads, isV = index >= q.heads + k.heads;
  const int half = p.dim / 2, lane = threadIdx.x % kWarp;
  const auto at = [&](int group) { return 2 * (lane + group * kWarp); };

  const unsigned head = isQ ? index : isV ? index - q.heads - k.heads : index - q.heads;
  T* const source = (isQ ? q : isV ? v : k)[token * (isQ ? q.heads : k.heads) + head];

  // Gains are weights: they may be read while the projection is still being computed.
  float2 gainLow[kGroups] = {}, gainHigh[kGroups] = {};
  const float* const gain = isQ ? p.qWeight : p.kWeight;
#pragma unroll
  for (int g = 0; g < kGroups; g++) {
    if (at(g) >= half || isV) continue;
    gainLow[g] = *reinterpret_cast<const float2*>(gain + at(g));
    gainHigh[g] = *reinterpret_cast<const float2*>(gain + half + at(g));
  }
  launchDependents();
  waitForPrevious();
  if (index >= q.heads + 2 * k.heads) return;

  const int64_t slot = isQ ? 0 : p.slots[token];
  const float* const angles = p.cosSin + p.positions[token] * p.angleStride;
  float2 low[kGroups] = {}, high[kGroups] = {}, cosine[kGroups] = {}, sine[kGroups] = {};
  float squares = 0;
#pragma unroll
  for (int g = 0; g < kGroups; g++) {
    if (at(g) >= half) continue;
    low[g] = loadPair(source + at(g));
    high[g] = loadPair(source + half + at(g));
    squares += low[g].x * low[g].x + low[g].y * low[g].y + high[g].x * high[g].x + high[g].y * high[g].y;
    if (isV) continue;
    cosine[g] = *reinterpret_cast<const float2*>(angles + at(g));
    sine[g] = *reinterpret_cast<const float2*>(angles + half + at(g));
  }

  if (!isV) {
    const float scale = rsqrtf(warpSum(squares) / p.dim + p.eps);
#pragma unroll
    for (int g = 0; g < kGroups; g++) {
      const float2 a = {low[g].x * scale * gainLow[g].x, low[g].y * scale * gainLow[g].y};
      const float2 b = {high[g].x * scale * gainHigh[g].x, high[g].y * scale * gainHigh[g].y};
      low[g] = {a.x * cosine[g].x - b.x * sine[g].x, a.y * cosine[g].y - b.y * sine[g].y};
      high[g] = {b.x * cosine[g].x + a.x * sine[g].x, b.y * cosine[g].y + a.y * sine[g].y};
    }
  }

  if (slot < 0) return;
  // A slot is an index of the dense cache [NB · BS, Hkv, D].
  T* const target = isQ ? source : (isV ? vCache : kCache) + (slot * k.heads + head) * p.dim;
#pragma unroll
  for (int g = 0; g < kGroups; g++) {
    if (at(g) >= half) continue;
    storePair(target + at(g), low[g]);
    storePair(target + half + at(g), high[g]);
  }
}

}  // namespace

void qkNormRopeStore(const Launch& on, const QkNormRopeStore& a) {
  const int dim = static_cast<int>(a.q.size[2]);
  if (dim % 4 != 0 || dim > 256) {
    throw TensorError(
        format("qkNormRopeStore takes head sizes to 256 that are multiples of 4, not %d.", dim));
  }
  const auto warps = static_cast<unsigned>(a.q.size[1] + 2 * a.k.size[1]);
  const dim3 grid(static_cast<unsigned>(a.q.size[0]), (warps + kWarps - 1) / kWarps);
  const Params params{a.qWeight.f32(), a.kWeight.f32(),    a.eps, a.positions.i32(), a.slots.i32(),
                      a.cosSin.f32(),  a.cosSin.stride[0], dim};
  dispatch(a.q.dtype, [&](auto zero) {
    using T = decltype(zero);
    const auto with = [&](auto kernel) {
      launch(on, "qkNormRopeStore", kernel, grid, kWarps * kWarp, 0, rowsOf<T>(a.q), rowsOf<T>(a.k),
             rowsOf<T>(a.v), a.kCache.as<T>(), a.vCache.as<T>(), params);
    };
    dim <= 128 ? with(fusedKernel<T, 1>) : with(fusedKernel<T, 2>);
  });
}

}  // namespace nanovllm::cuda

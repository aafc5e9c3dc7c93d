// Writes new keys and values into the paged cache: token t goes to slot slots[t] = block · BS + offset, -1
// skips it. The caches [NB, BS, Hkv, D] are dense, so that a slot is simply an index of [NB · BS, Hkv, D].
//
// A block takes one token and copies its heads' keys and values, eight elements (16 bytes) a thread at a
// time.
#include "cuda/launch.cuh"
#include "cuda/rows.cuh"

namespace nanovllm::cuda {
namespace {

constexpr int kThreads = 256;

template <class T, bool kWide>
__global__ void storeKernel(Rows<T> k, Rows<T> v, T* kCache, T* vCache, const int32_t* slots, int dim) {
  launchDependents();
  waitForPrevious();
  const unsigned token = blockIdx.x, heads = k.heads;
  const int64_t slot = slots[token];
  if (slot < 0) return;
  const int parts = (dim + 7) / 8;
  for (int task = threadIdx.x; task < 2 * heads * parts; task += kThreads) {
    const unsigned head = task / parts % heads;
    const int i = task % parts * 8;
    const bool isValue = task >= heads * parts;
    T* const to = (isValue ? vCache : kCache) + (slot * heads + head) * dim + i;
    float part[8];  // 16-bit numbers survive the way through float32 unchanged
    loadEight<kWide>((isValue ? v : k)[token * heads + head] + i, dim - i, part);
    storeEight<kWide>(to, dim - i, part);
  }
}

}  // namespace

void storeKvCache(const Launch& on, const TensorView& k, const TensorView& v, const TensorView& kCache,
                  const TensorView& vCache, const TensorView& slots) {
  const dim3 grid(static_cast<unsigned>(k.size[0]));
  dispatch(k.dtype, [&](auto zero) {
    using T = decltype(zero);
    choose(isWide(k) && isWide(v) && isWide(kCache) && isWide(vCache), [&](auto wide) {
      launch(on, "storeKvCache", storeKernel<T, wide.value>, grid, kThreads, 0, rowsOf<T>(k), rowsOf<T>(v),
             kCache.as<T>(), vCache.as<T>(), slots.i32(), static_cast<int>(k.size[2]));
    });
  });
}

}  // namespace nanovllm::cuda

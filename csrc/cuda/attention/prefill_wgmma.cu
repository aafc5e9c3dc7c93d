// Prefill attention, rung 4: Hopper's asynchronous units (FlashAttention-3: Shah et al. 2024).
//
// What it adds to rung 3:
// - wgmma: four warps multiply 64 rows at a time, reading K and V from shared memory without passing them
//   through registers. mma.sync cannot use more than about two thirds of Hopper's tensor cores.
// - The copy engine (TMA): two warps, the producers (prefill_producer.cuh), start copies of whole tiles or
//   cache blocks; addresses, bounds and swizzle are the engine's business, and the other warps' instructions
//   are all arithmetic.
// - Softmax under the products (prefill_consumer.cuh): a softmax costs about as long as a product, on other
//   units. A consumer starts Q K^T of the next tile, then P V of this one, and computes the next tile's
//   softmax while P V still runs (section 3.2 of the paper). And the consumers take turns at starting
//   products, so that one's softmax runs under the other's products (3.1).
// - Blocks are persistent: one a multiprocessor, which takes tile after tile (prefill_schedule.cuh). While
//   the consumers finish one tile, the producers already load the next.
//
// Rows are (query, head) pairs as in rung 3, 64 for each consumer, and the result is batch-invariant for the
// same reasons.
#include "cuda/attention/prefill_consumer.cuh"
#include "cuda/attention/prefill_producer.cuh"
#include "cuda/launch.cuh"

namespace nanovllm::cuda {
namespace {

template <int kConsumers>
constexpr int kThreads = (kConsumers + 1) * kWarpgroup;

// With three warpgroups a thread has 168 registers at launch (65536 / 384, rounded down to a multiple of 8).
// The producers give up most of theirs: 3 x 168 = 2 x 224 + 56.
[[maybe_unused]] constexpr int kConsumerRegisters = 224, kProducerRegisters = 56;

template <class T, int kDim, int kConsumers, bool kPaged>
__global__ __launch_bounds__(kThreads<kConsumers>,
                             1) void prefillWgmmaKernel(const __grid_constant__ PrefillMaps maps,
                                                        const PrefillParams<T> p) {
#ifdef NANO_HOPPER
  extern __shared__ __align__(kAtomBytes) unsigned char memory[];
  auto& s = *reinterpret_cast<PrefillSmem<T, kDim, kConsumers>*>(memory);
  if (threadIdx.x == 0) {
    prefetchMap(maps.q);
    prefetchMap(maps.k);
    prefetchMap(maps.v);
    s.initBarriers();
  }
  __syncthreads();
  launchDependents();
  waitForPrevious();

  const int warpgroup = threadIdx.x / kWarpgroup;
  if (warpgroup == kConsumers) {
    if constexpr (kConsumers == 2) shrinkRegisters<kProducerRegisters>();
    const int warp = threadIdx.x % kWarpgroup / kWarp;
    if (warp < 2) produce<T, kDim, kConsumers, kPaged>(s, maps, p, warp == 1);
  } else {
    if constexpr (kConsumers == 2) growRegisters<kConsumerRegisters>();
    consume<T, kDim, kConsumers, kPaged>(s, p, warpgroup);
  }
#endif
}

template <class T, int kDim, bool kPaged>
PrefillMaps mapsOf(const PrefillArgs& a) {
  constexpr int kColumnBlocks = kDim / kAtomColumns;
  const int sharing = a.heads() / a.kvHeads();
  PrefillMaps maps;
  maps.q = tensorMap<3>(a.q, {kDim, a.heads(), a.q.size[0]}, {kDim, a.q.stride[0]},
                        {kAtomColumns, sharing, kConsumerRows / sharing});
  const auto keyMap = [&](const TensorView& t) {
    const int64_t columns = int64_t{a.kvHeads()} * kColumnBlocks;  // the heads' column blocks, one dimension
    if constexpr (kPaged) {
      const int64_t row = t.stride[1];
      const int boxKeys = a.blockSize() < kKeys ? a.blockSize() : kKeys;
      return tensorMap<5>(t, {kAtomColumns, 8, columns, a.blockSize() / 8, t.size[0]},
                          {row, kAtomColumns, 8 * row, t.stride[0]},
                          {kAtomColumns, 8, kColumnBlocks, boxKeys / 8, 1});
    } else {
      return tensorMap<3>(t, {kAtomColumns, t.size[0], columns}, {t.stride[0], kAtomColumns},
                          {kAtomColumns, kKeys, kColumnBlocks});
    }
  };
  maps.k = keyMap(a.k);
  maps.v = keyMap(a.v);
  return maps;
}

/// No more tiles than this can exist; how many do is known on the device only.
int64_t tilesAtMost(const PrefillArgs& a, int queriesPerTile) {
  const int64_t byLongest = int64_t{a.batch} * ((a.maxSeqlenQ + queriesPerTile - 1) / queriesPerTile);
  const int64_t byTotal = a.q.size[0] / queriesPerTile + a.batch;
  return (byLongest < byTotal ? byLongest : byTotal) * a.kvHeads();
}

template <class T, int kDim, int kConsumers, bool kPaged>
void run(const Launch& on, const PrefillArgs& a) {
  const int64_t tiles = tilesAtMost(a, kConsumers * (kConsumerRows / (a.heads() / a.kvHeads())));
  const int blocks = static_cast<int>(tiles < on.multiprocessors ? tiles : on.multiprocessors);
  launch(on, "prefillWgmma", prefillWgmmaKernel<T, kDim, kConsumers, kPaged>, dim3(blocks),
         dim3(kThreads<kConsumers>), sizeof(PrefillSmem<T, kDim, kConsumers>), mapsOf<T, kDim, kPaged>(a),
         PrefillParams<T>(a));
}

template <class T, int kDim>
void runShape(const Launch& on, const PrefillArgs& a) {
  // When there is a multiprocessor for every 64 rows, two consumers would only share one.
  const bool few = tilesAtMost(a, kConsumerRows / (a.heads() / a.kvHeads())) <= on.multiprocessors;
  if (a.blockTables) return few ? run<T, kDim, 1, true>(on, a) : run<T, kDim, 2, true>(on, a);
  return few ? run<T, kDim, 1, false>(on, a) : run<T, kDim, 2, false>(on, a);
}

}  // namespace

bool prefillWgmmaSupports(const Launch& on, const PrefillArgs& a) {
  // The copy engine wants addresses and strides in units of 16 bytes, and no empty tensors.
  const auto suits = [](const TensorView& t) {
    bool ok = reinterpret_cast<uintptr_t>(t.data) % 16 == 0 && t.numel() > 0;
    for (int i = 0; i < t.rank - 2; i++) ok = ok && t.stride[i] > 0 && t.stride[i] % 8 == 0;
    return ok;
  };
  const int blockSize = a.blockSize();
  const bool blocksFit =
      !a.blockTables || (blockSize % 8 == 0 && (kKeys % blockSize == 0 || blockSize % kKeys == 0));
  return on.arch == 90 && (a.headDim() == 64 || a.headDim() == 128) &&
         a.heads() / a.kvHeads() <= kConsumerRows && blocksFit && suits(a.q) && suits(a.k) && suits(a.v);
}

void prefillWgmma(const Launch& on, const PrefillArgs& a) {
  dispatch(a.q.dtype, [&](auto zero) {
    using T = decltype(zero);
    a.headDim() == 64 ? runShape<T, 64>(on, a) : runShape<T, 128>(on, a);
  });
}

}  // namespace nanovllm::cuda

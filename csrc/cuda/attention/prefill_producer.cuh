// Rung 4's shared memory, and the two warps that fill it: they start copies and do nothing else. One has K
// and Q, the other V, so that neither waits for the other's buffers to become empty.
//
// Between producers and consumers each buffer has two barriers: `full` (the copy engine has delivered) and
// `empty` (the consumers have used it up). K and V have a ring of kStages buffers each, so that copies run
// ahead of the arithmetic, also across the border of two tiles of rows. Every consumer has its own Q and its
// own barriers for it: one that is ahead can start the next tile of rows while the other still finishes this
// one.
#pragma once

#include "cuda/attention/hopper.cuh"
#include "cuda/attention/prefill.cuh"
#include "cuda/attention/prefill_schedule.cuh"

namespace nanovllm::cuda {

constexpr int kConsumerRows = 64;
constexpr int kKeys = 128;        // of a tile
constexpr int kStages = 2;        // tiles of K, and of V, in flight
constexpr int kAtomColumns = 64;  // numbers in a swizzled row of 128 bytes
constexpr int kAtomBytes = 1024;  // eight such rows

struct PrefillMaps {
  CUtensorMap q, k, v;
};

template <class T, int kDim, int kConsumers>
struct PrefillSmem {
  static constexpr int kColumnBlocks = kDim / kAtomColumns;

  alignas(kAtomBytes) T q[kConsumers][kColumnBlocks][kConsumerRows][kAtomColumns];
  alignas(kAtomBytes) T k[kStages][kKeys * kDim];
  alignas(kAtomBytes) T v[kStages][kKeys * kDim];
  Barrier qFull[kConsumers], qEmpty[kConsumers], kFull[kStages], kEmpty[kStages], vFull[kStages],
      vEmpty[kStages];
  PrefillWork work[kConsumers];  // belongs to q: written before qFull, read before qEmpty

  __device__ void initBarriers() {
    constexpr int kWarps = kWarpgroup / kWarp;  // every consuming warp says that it is done
    for (int c = 0; c < kConsumers; c++) {
      qFull[c].init(1);
      qEmpty[c].init(kWarps);
    }
    for (int i = 0; i < kStages; i++) {
      kFull[i].init(1);
      vFull[i].init(1);
      kEmpty[i].init(kConsumers * kWarps);
      vEmpty[i].init(kConsumers * kWarps);
    }
    fenceBarrierInit();
  }
};

/// How a tile of K or V is arranged in shared memory: as the copies leave it. From contiguous memory one box
/// brings [column block][128 rows][64 numbers]. From the cache one box for each block of keys brings
/// [groups of 8 rows][column block][8 rows][64]: such boxes, put one after another, still have a constant
/// distance from each 8 rows to the next, which is all that wgmma asks for.
template <int kDim, bool kPaged>
struct Arrangement {
  static constexpr int kColumnBlocks = kDim / kAtomColumns;
  // From 8 rows to the next 8, and from 64 columns to the next 64.
  static constexpr int kGroupStride = kPaged ? kColumnBlocks * kAtomBytes : kAtomBytes;
  static constexpr int kColumnStride = kPaged ? kAtomBytes : kKeys / 8 * kAtomBytes;
};

/// One producer warp: it fills the ring of K, and Q, or the ring of V (`values`).
template <class T, int kDim, int kConsumers, bool kPaged>
__device__ __forceinline__ void produce(PrefillSmem<T, kDim, kConsumers>& s, const PrefillMaps& maps,
                                        const PrefillParams<T>& p, bool values) {
  constexpr int kColumnBlocks = kDim / kAtomColumns;
  const int lane = threadIdx.x % kWarp;
  const int sharing = p.heads / p.kvHeads, queries = kConsumerRows / sharing;  // of a consumer
  const int boxKeys = kPaged ? min(p.blockSize, kKeys) : kKeys;
  const CUtensorMap& map = values ? maps.v : maps.k;
  Barrier *const full = values ? s.vFull : s.kFull, *const empty = values ? s.vEmpty : s.kEmpty;
  T* const ring = values ? s.v[0] : s.k[0];

  RingPosition<kStages> at;
  LongestFirst<T, kKeys> schedule(p, kConsumers * queries);
  for (int round = 0;; round++) {
    const PrefillWork work = schedule.tile(round, blockIdx.x, gridDim.x);
    const auto loadQ = [&](int c) {
      if (values) return;
      s.qEmpty[c].wait(round & 1 ^ 1);
      if (lane != 0) return;
      s.work[c] = work;
      if (work.keyTiles < 0) return s.qFull[c].arrive();
      s.qFull[c].arriveExpecting(kDim * queries * sharing * sizeof(T));
      for (int column = 0; column < kColumnBlocks; column++) {
        copyBox(maps.q, s.qFull[c], s.q[c][column], column * kAtomColumns, work.kvHead * sharing,
                work.sequence.firstQuery + work.firstQuery + c * queries);
      }
    };
    // A cache block is a box, started by the lane that looked it up. Blocks past the last key are not
    // touched.
    const auto boxesOf = [&](int tile) {
      return kPaged ? (min(kKeys, work.sequence.keys - tile * kKeys) + boxKeys - 1) / boxKeys : 1;
    };
    const auto lookUp = [&](int tile) {
      if (!kPaged || tile >= work.keyTiles || lane >= boxesOf(tile)) return 0;
      const int64_t row = work.batchIndex * p.blockTableStride;
      return p.blockTables[row + (tile * kKeys + lane * boxKeys) / p.blockSize];
    };

    loadQ(0);
    int next = lookUp(0);
    for (int tile = 0; tile < max(1, work.keyTiles); tile++) {
      const int block = next;
      next = lookUp(tile + 1);  // needed a tile later, when it has long arrived
      if (tile < work.keyTiles) {
        Barrier& arrived = full[at.stage];
        T* const to = ring + at.stage * kKeys * kDim;
        empty[at.stage].wait(at.parity ^ 1);
        const int boxes = boxesOf(tile), key = tile * kKeys + lane * boxKeys;
        if (lane == 0) arrived.arriveExpecting(boxes * boxKeys * kDim * sizeof(T));
        __syncwarp();
        if (lane < boxes) {
          if constexpr (kPaged) {
            copyBox(map, arrived, to + lane * boxKeys * kDim, 0, 0, work.kvHead * kColumnBlocks,
                    key % p.blockSize / 8, block);
          } else {
            copyBox(map, arrived, to, 0, work.sequence.firstKey + key, work.kvHead * kColumnBlocks);
          }
        }
        at.advance();
      }
      if (tile == 0) {  // the first K goes before the other consumers' Q, for which it may have to wait
        for (int c = 1; c < kConsumers; c++) loadQ(c);
      }
    }
    if (work.keyTiles < 0) return;
  }
}

}  // namespace nanovllm::cuda

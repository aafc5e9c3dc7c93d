// Rung 4's shared memory, and the warp that fills it: it starts copies and does nothing else.
//
// Between producer and consumers each buffer has two barriers: `full` (the copy engine has delivered) and `empty` (the
// consumers have used it up). K and V have a ring of kStages buffers each, so that copies run ahead of the arithmetic, also
// across the border of two tiles of rows. Every consumer has its own Q and its own barriers for it: one that is
// ahead can start the next tile of rows while the other still finishes this one.
#pragma once

#include "cuda/attention/hopper.cuh"
#include "cuda/attention/prefill.cuh"
#include "cuda/attention/prefill_schedule.cuh"

namespace nanovllm::cuda {

constexpr bool kWide = false;
constexpr int kConsumerRows = 64;
constexpr int kKeys = 128;         // of a tile
constexpr int kStages = 2;         // tiles of K, and of V, in flight
constexpr int kAtomColumns = 64;   // numbers in a swizzled row of 128 bytes
constexpr int kAtomBytes = 1024;   // eight such rows

struct PrefillMaps {
  CUtensorMap q, k, v;
};

template <class T, int kDim, int kConsumers>
struct PrefillSmem {
  static constexpr int kColumnBlocks = kDim / kAtomColumns;

  alignas(kAtomBytes) T q[kConsumers][kColumnBlocks][kConsumerRows][kAtomColumns];
  alignas(kAtomBytes) T k[kStages][kKeys * kDim];
  alignas(kAtomBytes) T v[kStages][kKeys * kDim];
  Barrier qFull[kConsumers], qEmpty[kConsumers], kFull[kStages], kEmpty[kStages], vFull[kStages], vEmpty[kStages];
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

/// How a tile of K or V is arranged in shared memory: as the copies leave it. From contiguous memory one box brings
/// [column block][128 rows][64 numbers]; from the cache one box for each block of keys brings [8 rows][column block][8 rows][64].
template <int kDim, bool kPaged>
struct Arrangement {
  static constexpr int kColumnBlocks = kDim / kAtomColumns;
  static constexpr int kGroupStride = kPaged && kWide ? kColumnBlocks * kAtomBytes : kAtomBytes;  // 8 rows to the next 8
  static constexpr int kColumnStride = kPaged && kWide ? kAtomBytes : kKeys / 8 * kAtomBytes;     // 64 columns to the next 64
};

/// One producer warp: it fills the ring of K, and Q, or the ring of V (`values`).
template <class T, int kDim, int kConsumers, bool kPaged>
__device__ __forceinline__ void produce(PrefillSmem<T, kDim, kConsumers>& s, const PrefillMaps& maps,
                                        const PrefillParams<T>& p, bool values) {
  constexpr int kColumnBlocks = kDim / kAtomColumns;
  const int lane = threadIdx.x % kWarp;
  const int sharing = p.heads / p.kvHeads, queries = kConsumerRows / sharing;  // of a consumer
  const int boxKeys = kPaged ? min(p.blockSize, kKeys) : kKeys, boxes = kKeys / boxKeys;
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
    // A cache block is a box for each column block, and each box is started by a lane of its own, which looks the block up.
    // Blocks past the last key are not touched.
    const int column = kWide ? 0 : lane / boxes, box = kWide ? lane : lane % boxes;
    const auto holdsKeys = [&](int tile) {
      return column < kColumnBlocks && box < boxes && tile * kKeys + box * boxKeys < work.sequence.keys;
    };
    const auto lookUp = [&](int tile) {
      if (!kPaged || tile >= work.keyTiles || !holdsKeys(tile)) return 0;
      return p.blockTables[work.batchIndex * p.blockTableStride + (tile * kKeys + box * boxKeys) / p.blockSize];
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
        if constexpr (kPaged) {
          const int held = (min(kKeys, work.sequence.keys - tile * kKeys) + boxKeys - 1) / boxKeys;
          if (lane == 0) arrived.arriveExpecting(held * boxKeys * kDim * sizeof(T));
          __syncwarp();
          if (holdsKeys(tile)) {
            const int slot = (tile * kKeys + box * boxKeys) % p.blockSize;
            if constexpr (kWide) {
              copyBox(map, arrived, to + box * boxKeys * kDim, 0, 0, work.kvHead * kColumnBlocks, slot / 8, block);
            } else {
              copyBox(map, arrived, to + (column * kKeys + box * boxKeys) * kAtomColumns, 0, slot,
                      work.kvHead * kColumnBlocks + column, block);
            }
          }
        } else if (lane == 0) {
          arrived.arriveExpecting(kKeys * kDim * sizeof(T));
          copyBox(map, arrived, to, 0, work.sequence.firstKey + tile * kKeys, work.kvHead * kColumnBlocks);
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

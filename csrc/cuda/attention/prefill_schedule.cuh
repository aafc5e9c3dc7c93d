// Which tile of rows a block of a persistent kernel computes next: the longest first.
//
// With causal masks the tiles of a batch differ in length by a factor of up to a hundred. Blocks take them in
// order of falling length, back and forth (block 0 … n-1, then n-1 … 0), and so all end at nearly the same
// time: what is left to even out at the end are the shortest tiles. (Graham 1969, the LPT rule; dealt out
// instead of taken on demand, since the shared counter of a dynamic queue would have to be reset by
// somebody.)
//
// Nobody sorts. A tile's length is its number of key tiles, and how many tiles of a sequence have at least a
// given length is a division. A warp walks the lengths downwards, each lane with a sequence of its own, and
// stops at the length where the wanted index lies.
#pragma once

#include "cuda/attention/prefill.cuh"

namespace nanovllm::cuda {

/// A tile of rows: queries of one sequence, with all the heads that share a key head.
struct PrefillWork {
  PrefillSequence sequence;
  int batchIndex, kvHead;
  int firstQuery;
  int keyTiles;  // that its last query sees; negative: no work is left
};

template <class T, int kKeysPerTile>
class LongestFirst {
 public:
  /// All functions are called by a whole warp.
  __device__ LongestFirst(const PrefillParams<T>& p, int queriesPerTile) : p_(p), queries_(queriesPerTile) {
    int keys = 0;
    for (int b = threadIdx.x % kWarp; b < p.batch; b += kWarp)
      keys = max(keys, p.cuSeqlensK[b + 1] - p.cuSeqlensK[b]);
    length_ = (__reduce_max_sync(kAllLanes, keys) + kKeysPerTile - 1) / kKeysPerTile + 1;
  }

  /// The tile that block `block` of `blocks` computes as its `round`-th. Rounds must be asked for in order.
  __device__ PrefillWork tile(int round, int block, int blocks) {
    const int index = round * blocks + (round % 2 ? blocks - 1 - block : block);
    const int wanted = index / p_.kvHeads;
    while (atLeast_ <= wanted && length_ > 0) {
      length_--;
      longer_ = atLeast_;
      atLeast_ = countAtLeast();
    }
    PrefillWork work{};
    work.keyTiles = -1;
    if (atLeast_ <= wanted) return work;

    int rank = wanted - longer_;  // among the tiles of this length
    const int lane = threadIdx.x % kWarp;
    for (int base = 0;; base += kWarp) {
      PrefillSequence sequence{};
      int first = 0, count = 0;
      if (base + lane < p_.batch) {
        sequence = p_.sequence(base + lane);
        first = firstOfLength(sequence, length_);
        count = firstOfLength(sequence, length_ + 1) - first;
      }
      int sum = count;  // of this lane and those below
#pragma unroll
      for (int offset = 1; offset < kWarp; offset *= 2) {
        const int below = __shfl_up_sync(kAllLanes, sum, offset);
        if (lane >= offset) sum += below;
      }
      const unsigned holders = __ballot_sync(kAllLanes, sum > rank);
      if (holders) {
        const int owner = __ffs(holders) - 1;
        work.sequence = {__shfl_sync(kAllLanes, sequence.firstQuery, owner),
                         __shfl_sync(kAllLanes, sequence.queries, owner),
                         __shfl_sync(kAllLanes, sequence.firstKey, owner),
                         __shfl_sync(kAllLanes, sequence.keys, owner)};
        work.batchIndex = base + owner;
        work.kvHead = index % p_.kvHeads;
        work.firstQuery = __shfl_sync(kAllLanes, first + rank - (sum - count), owner) * queries_;
        work.keyTiles = length_;
        return work;
      }
      rank -= __shfl_sync(kAllLanes, sum, kWarp - 1);
    }
  }

 private:
  /// The first tile of a sequence that sees at least `length` tiles of keys: later tiles never see fewer.
  __device__ int firstOfLength(const PrefillSequence& s, int length) const {
    const int tiles = (s.queries + queries_ - 1) / queries_;
    if (length == 0) return 0;
    const int key = (length - 1) * kKeysPerTile;  // that its last query has to see
    if (key >= s.keys) return tiles;
    return p_.causal ? min(tiles, max(0, key - (s.keys - s.queries)) / queries_) : 0;
  }
  __device__ int countAtLeast() const {
    int count = 0;
    for (int b = threadIdx.x % kWarp; b < p_.batch; b += kWarp) {
      const PrefillSequence s = p_.sequence(b);
      count += (s.queries + queries_ - 1) / queries_ - firstOfLength(s, length_);
    }
    return __reduce_add_sync(kAllLanes, count);
  }

  const PrefillParams<T>& p_;
  int queries_;
  int length_;                    // of the tiles that are being dealt out
  int longer_ = 0, atLeast_ = 0;  // tiles longer than that, and at least as long
};

}  // namespace nanovllm::cuda

// How decodePacked divides a batch among its blocks: equal shares, whatever the context lengths are.
//
// The unit of attention is one sequence and one key head (with its query heads); its keys are cut into tiles
// of sixteen for each warp. All tiles of all units, one after the other, are one line, and block c takes the
// tiles [c·share, (c+1)·share) of it. A share may hold several whole units, and begin or end in the middle of
// one: then several blocks have a piece of that unit, and merge. This is the stream-K decomposition of matrix
// products (Osama et al. 2023), which LeanAttention (Sanovar et al. 2024) brought to decoding.
//
// Against a fixed cut of every context it needs no guess of the lengths: a lone sequence spreads over the
// whole GPU, 256 ragged ones keep every block busy to the end, and the grid is the same for all of them, as a
// CUDA graph wants it. The price is that every block first adds up the lengths of the batch.
#pragma once

#include "cuda/numbers.cuh"

namespace nanovllm::cuda {

/// Part of a unit that lies in this block's share.
struct Piece {
  int b, unit;      // sequence, and unit within it
  int length;       // of the sequence
  int first, last;  // tiles of the unit: [first, last)
  int start;        // the unit's first tile on the line
};

/// The blocks which have a piece of a unit.
struct Owners {
  int first, count;
};

/// This block's share, piece by piece: `for (Piece piece; shares.next(piece);)`. All threads compute the
/// same.
template <int kTileKeys>
class Shares {
 public:
  __device__ Shares(const int32_t* lengths, int batch, int units) : lengths_(lengths), units_(units) {
    // A lane adds up the tiles of neighbouring sequences, and a prefix sum over the lanes says where they
    // start.
    const int lane = threadIdx.x % kWarp, each = (batch + kWarp - 1) / kWarp;
    int mine = 0;
    for (int b = lane * each; b < min((lane + 1) * each, batch); b++) mine += tilesOf(lengths[b]);
    int upTo = mine;
#pragma unroll
    for (int offset = 1; offset < kWarp; offset *= 2) {
      const int before = __shfl_up_sync(kAllLanes, upTo, offset);
      if (lane >= offset) upTo += before;
    }
    const unsigned total = __shfl_sync(kAllLanes, upTo, kWarp - 1) * units;
    share_ = (total + gridDim.x - 1) / gridDim.x;
    at_ = min(blockIdx.x * share_, total);
    end_ = min(at_ + share_, total);
    if (at_ >= end_) return;
    const int owner = __ffs(__ballot_sync(kAllLanes, upTo * units > at_)) - 1;
    before_ = __shfl_sync(kAllLanes, upTo - mine, owner);
    b_ = owner * each;
  }

  __device__ bool next(Piece& piece) {
    if (at_ >= end_) return false;
    unsigned tiles = tilesOf(lengths_[b_]);
    while (at_ >= (before_ + tiles) * units_) {
      before_ += tiles;
      tiles = tilesOf(lengths_[++b_]);
    }
    const unsigned unit = (at_ - before_ * units_) / tiles, start = before_ * units_ + unit * tiles;
    const unsigned stop = min(start + tiles, end_);
    piece = {b_,
             static_cast<int>(unit),
             lengths_[b_],
             static_cast<int>(at_ - start),
             static_cast<int>(stop - start),
             static_cast<int>(start)};
    at_ = stop;
    return true;
  }

  __device__ Owners ownersOf(const Piece& piece) const {
    const unsigned first = piece.start / share_, last = (piece.start + tilesOf(piece.length) - 1) / share_;
    return {static_cast<int>(first), static_cast<int>(last - first + 1)};
  }

 private:
  __device__ static int tilesOf(int length) { return (length + kTileKeys - 1) / kTileKeys; }

  const int32_t* lengths_;
  unsigned units_;
  unsigned share_, at_, end_;  // in tiles, on the line
  int b_ = 0;                  // a sequence …
  unsigned before_ = 0;        // … and a unit's tiles in the sequences before it
};

}  // namespace nanovllm::cuda

// The inner loop of decodePacked: one warp, sixteen keys at a time, all query heads of a group.
//
// Nothing here passes through shared memory. A lane's loads, 16 bytes each, are what the tensor-core product
// wants it to hold (decode_mma.cuh), and between a load and its use lies the work on the tile before:
//
//   scores of tile j  →  load keys of j+1  →  softmax, values of tile j  →  load values of j+1
//
// So a warp waits for keys while values are on their way and the other way round; with heads of 128, 4 to 8
// KB of each warp are in flight at any moment, and twelve warps fit on a multiprocessor.
#pragma once

#include "cuda/attention/decode.cuh"
#include "cuda/attention/decode_merge.cuh"
#include "cuda/attention/decode_mma.cuh"
#include "cuda/attention/decode_shares.cuh"

namespace nanovllm::cuda {

/// The query heads of one piece: `count` from `first` on.
struct Heads {
  int kv, first, count;
};

/// One warp's part of a piece: sixteen keys of every tile. kDims is the head size; or, when `kPadded`, the
/// next size there is code for: then the dims beyond the head's end are zeros, and never stored.
template <class T, int kWarps, int kDims, bool kPadded>
class WarpTiles {
 public:
  __device__ WarpTiles(const Decode<T>& a, const Piece& piece, const Heads& heads)
      : a_(a),
        piece_(piece),
        heads_(heads),
        k_(a.k + heads.kv * a.kvHead),
        v_(a.v + heads.kv * a.kvHead),
        end_(min(piece.last * kTileKeys, piece.length)),
        key_(piece.first * kTileKeys + warp_ * kMmaKeys) {}

  /// Starts the first loads before the kernels before this one have ended, unless the newest key is among
  /// them: all others were stored in earlier steps, and what runs now is this step's.
  __device__ void startEarly() {
    if (key_ + kMmaKeys < piece_.length && key_ < end_) start();
  }

  __device__ void run() {
    loadQuery();
    if (key_ >= end_) return;
    if (!started_) start();
    int key = key_;
    const int end = end_;
    while (true) {
      // Looked up a tile ahead, so that no load of keys waits for the block table. (After the last, in vain.)
      const int next = key + kTileKeys;
      const uint32_t row = rowOf(next);
      float scores[4] = {};
#pragma unroll
      for (int c = 0; c < kDims / 32; c++) addScores<T>(scores, keys_[c][0], keys_[c][1], query_[c]);
      if (next < end) loadKeys(row);
      softmax(scores, key);
      const uint32_t weights0 = transposed<T>(scores[0], scores[1]),
                     weights1 = transposed<T>(scores[2], scores[3]);
#pragma unroll
      for (int c = 0; c < kDims / 64; c++) addValues<T>(out_[c], values_[c], weights0, weights1);
      if (next >= end) break;
      loadValues(row);
      key = next;
    }
  }

  __device__ void store(States<kWarps, kDims>& states) {
#pragma unroll
    for (int h = 0; h < 2; h++) {
      for (int offset = 4; offset < kWarp; offset *= 2)
        sum_[h] += __shfl_xor_sync(kAllLanes, sum_[h], offset);
      if (g_ == 0) states.maxSum[warp_][2 * t_ + h] = {max_[h], sum_[h]};
#pragma unroll
      for (int c = 0; c < kDims / 64; c++) {
        auto* const to = reinterpret_cast<float4*>(&states.out[warp_][2 * t_ + h][c * 64 + g_ * 8]);
        to[0] = {out_[c][0][h], out_[c][0][h + 2], out_[c][1][h], out_[c][1][h + 2]};
        to[1] = {out_[c][2][h], out_[c][2][h + 2], out_[c][3][h], out_[c][3][h + 2]};
      }
    }
  }

 private:
  __device__ void loadQuery() {
    const bool used = g_ < heads_.count;
    const T* const q = a_.q + piece_.b * a_.qRow + (heads_.first + (used ? g_ : 0)) * a_.qHead;
#pragma unroll
    for (int c = 0; c < kDims / 32; c++) {
      const int d = c * 32 + t_ * 8;
      query_[c] = used && d < a_.dim ? *reinterpret_cast<const uint4*>(q + d) : uint4{};
    }
  }

  __device__ void start() {
    const uint32_t row = rowOf(key_);
    loadKeys(row);
    loadValues(row);
    started_ = true;
  }

  /// Where the key of this lane starts, in units of 16 bytes: lane i looks up key i of the sixteen. Keys past
  /// the end become the last key, which is a number times the weight 0. (Unused slots may hold anything, and
  /// 0·NaN is NaN.)
  __device__ uint32_t rowOf(int firstKey) const {
    return static_cast<uint32_t>(a_.keyStart(piece_.b, min(firstKey + lane_ % kMmaKeys, piece_.length - 1)) /
                                 8);
  }
  __device__ const T* rowAt(const T* base, uint32_t row, int key) const {
    return base + int64_t{__shfl_sync(kAllLanes, row, key)} * 8;
  }
  __device__ uint4 load(const T* row, int d) const {
    return kPadded && d >= a_.dim ? uint4{} : loadOnce(row + d);
  }

  __device__ void loadKeys(uint32_t row) {
    const T *const low = rowAt(k_, row, g_), *const high = rowAt(k_, row, g_ + 8);
#pragma unroll
    for (int c = 0; c < kDims / 32; c++) {
      keys_[c][0] = load(low, c * 32 + t_ * 8);
      keys_[c][1] = load(high, c * 32 + t_ * 8);
    }
  }

  __device__ void loadValues(uint32_t row) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const T* const value = rowAt(v_, row, 2 * t_ + i % 2 + i / 2 * 8);
#pragma unroll
      for (int c = 0; c < kDims / 64; c++) values_[c][i] = load(value, c * 64 + g_ * 8);
    }
  }

  /// Scores become weights 2^(score - max), and what was gathered before is scaled to the new maximum.
  __device__ void softmax(float (&scores)[4], int firstKey) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const int key = firstKey + g_ + i / 2 * 8;
      scores[i] = key < piece_.length ? scores[i] * a_.scale : -INFINITY;
    }
#pragma unroll
    for (int h = 0; h < 2; h++) {
      float max = fmaxf(scores[h], scores[h + 2]);
#pragma unroll
      for (int offset = 4; offset < kWarp; offset *= 2)
        max = fmaxf(max, __shfl_xor_sync(kAllLanes, max, offset));
      max = fmaxf(max, max_[h]);
      const float before = exp2f(max_[h] - max);
      max_[h] = max;
      scores[h] = exp2f(scores[h] - max);
      scores[h + 2] = exp2f(scores[h + 2] - max);
      sum_[h] = sum_[h] * before + scores[h] + scores[h + 2];
#pragma unroll
      for (int c = 0; c < kDims / 64; c++) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
          out_[c][i][h] *= before;
          out_[c][i][h + 2] *= before;
        }
      }
    }
  }

  static constexpr int kTileKeys = kWarps * kMmaKeys;

  const Decode<T>& a_;
  const Piece& piece_;
  const Heads heads_;
  const T *const k_, *const v_;
  const int lane_ = threadIdx.x % kWarp, warp_ = threadIdx.x / kWarp;
  const int g_ = lane_ / 4, t_ = lane_ % 4;  // of decode_mma.cuh
  const int end_, key_;                      // this warp's keys are key_ …, 16 of each tile, before end_
  bool started_ = false;

  uint4 query_[kDims / 32], keys_[kDims / 32][2], values_[kDims / 64][4];
  // Of heads 2t and 2t+1; the sum only over the keys this lane has seen.
  float max_[2] = {-INFINITY, -INFINITY}, sum_[2] = {};
  float out_[kDims / 64][4][4] = {};
};

}  // namespace nanovllm::cuda

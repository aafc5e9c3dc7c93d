// Rung 4's consumers: a warpgroup each, with 64 rows of their own.
//
// A thread has two rows, g and g + 8 of its warp's 16 (mma.cuh), and of these the same columns in scores,
// weights and output. What it does for each tile of keys j, with the weights P(j-1) at hand:
//
//   start S(j) = Q K(j)^T
//   start O += P(j-1) V(j-1)
//   wait for S(j)
//   softmax: S(j) becomes P(j)      while O += P V still runs
//   wait for O, and rescale it
#pragma once

#include "cuda/attention/mma.cuh"
#include "cuda/attention/prefill.cuh"
#include "cuda/attention/prefill_producer.cuh"
#include "cuda/attention/wgmma.cuh"

namespace nanovllm::cuda {
#ifdef NANO_HOPPER

/// scores = Q K^T of 64 rows and a tile of keys; runs in the background.
template <class T, int kDim, bool kPaged>
__device__ __forceinline__ void startScores(float (&scores)[kKeys / 2], const T* q, const T* k) {
  using At = Arrangement<kDim, kPaged>;
  const uint64_t a = matrixDescriptor(q, kAtomBytes, 0), b = matrixDescriptor(k, At::kGroupStride, 0);
  wgmmaFence();
#pragma unroll
  for (int step = 0; step < kDim / 16; step++) {
    const int column = step / 4, within = step % 4 * 32;
    wgmmaShared<T>(scores, advance(a, column * kConsumerRows * 128 + within),
                   advance(b, column * At::kColumnStride + within), step > 0);
  }
  wgmmaCommit();
}

/// out += P V; runs in the background.
template <class T, int kDim, bool kPaged>
__device__ __forceinline__ void startOutput(float (&out)[kDim / 2], uint32_t (&weights)[kKeys / 16][4],
                                            const T* v) {
  using At = Arrangement<kDim, kPaged>;
  const uint64_t b = matrixDescriptor(v, At::kGroupStride, At::kColumnStride);
  pin(out);
  pin(weights);
  wgmmaFence();
#pragma unroll
  for (int step = 0; step < kKeys / 16; step++) {
    wgmmaRegisters<T>(out, weights[step], advance(b, step * 2 * At::kGroupStride), true);
  }
  wgmmaCommit();
}

/// The online softmax of a thread's two rows.
struct PrefillSoftmax {
  float m[2] = {-INFINITY, -INFINITY}, l[2] = {}, rescale[2];

  /// Turns scores into weights. Keys from `visible` on (counted from this thread's first column) are masked,
  /// if `masked`.
  __device__ __forceinline__ void step(float (&scores)[kKeys / 2], float scaleLog2, bool masked,
                                       const int (&visible)[2]) {
    if (masked) {
#pragma unroll
      for (int i = 0; i < kKeys / 2; i++) {
        const int column = i / 4 * 8 + i % 2;
        if (column >= visible[i / 2 % 2]) scores[i] = -INFINITY;
      }
    }
#pragma unroll
    for (int h = 0; h < 2; h++) {
      float now = m[h], sum[2] = {};
#pragma unroll
      for (int i = 2 * h; i < kKeys / 2; i += 4) now = fmaxf(now, fmaxf(scores[i], scores[i + 1]));
      now = fmaxf(now, __shfl_xor_sync(kAllLanes, now, 1));  // a row lies in four lanes
      now = fmaxf(now, __shfl_xor_sync(kAllLanes, now, 2));
      const float base = finiteMax(now), scaledBase = base * scaleLog2;
      rescale[h] = rescaleFactor(m[h], base, scaleLog2);
      m[h] = now;
#pragma unroll
      for (int i = 2 * h; i < kKeys / 2; i += 4) {
#pragma unroll
        for (int e = 0; e < 2; e++) {
          scores[i + e] = exp2Fast(fmaf(scores[i + e], scaleLog2, -scaledBase));
          sum[e] += scores[i + e];
        }
      }
      l[h] = fmaf(l[h], rescale[h],
                  sum[0] + sum[1]);  // of this lane's keys; the four parts are added at the end
    }
  }
};

/// Writes zeros over the rows of a V tile from `keys` on. Their weights are 0, but the cache may hold NaN
/// there, and 0 * NaN is NaN. (Every consumer does it; one may be multiplying already when another writes the
/// same zeros again.)
template <class T, int kDim, bool kPaged>
__device__ __forceinline__ void clearRows(T* v, int keys) {
  using At = Arrangement<kDim, kPaged>;
  const int thread = threadIdx.x % kWarpgroup;
  for (int row = keys + thread / 8; row < kKeys; row += kWarpgroup / 8) {
    for (int column = 0; column < At::kColumnBlocks; column++) {
      char* const start = reinterpret_cast<char*>(v) + row / 8 * At::kGroupStride + row % 8 * 128 +
                          column * At::kColumnStride;
      *reinterpret_cast<uint4*>(start + thread % 8 * 16) = uint4{};
    }
  }
  fenceProxyAsync();
}

/// Four lanes with four words each: afterwards lane i has the i-th word of each.
__device__ __forceinline__ void transposeQuad(uint32_t (&w)[4]) {
  const bool odd = threadIdx.x & 1, high = threadIdx.x & 2;
#pragma unroll
  for (int i = 0; i < 4; i += 2) {
    const uint32_t other = __shfl_xor_sync(kAllLanes, odd ? w[i] : w[i + 1], 1);
    (odd ? w[i] : w[i + 1]) = other;
  }
#pragma unroll
  for (int i = 0; i < 2; i++) {
    const uint32_t other = __shfl_xor_sync(kAllLanes, high ? w[i] : w[i + 2], 2);
    (high ? w[i] : w[i + 2]) = other;
  }
}

/// Stores 64 rows of results. Transposed among the four lanes of a row, they are written in 16 bytes a lane.
template <class T, int kDim>
__device__ __forceinline__ void storeRows(const PrefillParams<T>& p, const PrefillWork& work,
                                          const float (&out)[kDim / 2], const PrefillSoftmax& softmax,
                                          int firstQuery, int row, int sharing) {
#pragma unroll
  for (int h = 0; h < 2; h++) {
    float l = softmax.l[h];
    l += __shfl_xor_sync(kAllLanes, l, 1);
    l += __shfl_xor_sync(kAllLanes, l, 2);
    const float norm = l > 0 ? 1 / l : 0;  // a query that sees nothing gives zeros
    const int local = (row + 8 * h) / sharing, query = firstQuery + local;
    const bool exists = local < kConsumerRows / sharing && query < work.sequence.queries;
    T* const to =
        p.outRow(int64_t{work.sequence.firstQuery} + query, work.kvHead * sharing + (row + 8 * h) % sharing);
#pragma unroll
    for (int n = 0; n < kDim / 32; n++) {
      uint32_t words[4];
#pragma unroll
      for (int i = 0; i < 4; i++) {
        words[i] = packPair<T>(out[16 * n + 4 * i + 2 * h] * norm, out[16 * n + 4 * i + 2 * h + 1] * norm);
      }
      transposeQuad(words);
      if (exists)
        *reinterpret_cast<uint4*>(to + 32 * n + threadIdx.x % 4 * 8) = {words[0], words[1], words[2],
                                                                        words[3]};
    }
  }
}

template <class T, int kDim, int kConsumers, bool kPaged>
__device__ __forceinline__ void consume(PrefillSmem<T, kDim, kConsumers>& s, const PrefillParams<T>& p,
                                        int consumer) {
  constexpr int kOwnBarrier = 1,
                kTurnBarrier = kOwnBarrier + kConsumers;  // numbers of named barriers, plus the consumer's
  const int lane = threadIdx.x % kWarp, row = threadIdx.x % kWarpgroup / kWarp * 16 + lane / 4;
  const int sharing = p.heads / p.kvHeads;
  const auto release = [&](Barrier& empty) {
    __syncwarp();
    if (lane == 0) empty.arrive();
  };
  // Consumers start their products in turns, so that the softmax of one runs under the products of the other.
  const auto awaitTurn = [&] {
    if constexpr (kConsumers > 1) namedBarrierSync(kTurnBarrier + consumer, 2 * kWarpgroup);
  };
  const auto passTurn = [&] {
    if constexpr (kConsumers > 1)
      namedBarrierArrive(kTurnBarrier + (consumer + 1) % kConsumers, 2 * kWarpgroup);
  };

  RingPosition<kStages> kAt, vAt;
  if (consumer == kConsumers - 1) passTurn();  // consumer 0 has the first turn
  for (int round = 0;; round++) {
    s.qFull[consumer].wait(round & 1);
    const PrefillWork work = s.work[consumer];
    if (work.keyTiles < 0) break;

    const int firstQuery = work.firstQuery + consumer * (kConsumerRows / sharing);
    const int allVisible = work.sequence.visible(firstQuery, p.causal);  // what even the first row sees
    const int seen[2] = {work.sequence.visible(firstQuery + row / sharing, p.causal) - lane % 4 * 2,
                         work.sequence.visible(firstQuery + (row + 8) / sharing, p.causal) - lane % 4 * 2};
    PrefillSoftmax softmax;
    float scores[kKeys / 2], out[kDim / 2] = {};
    uint32_t weights[kKeys / 16][4];
    const auto toWeights = [&](int tile) {
      const int visible[2] = {seen[0] - tile * kKeys, seen[1] - tile * kKeys};
      softmax.step(scores, p.scaleLog2, (tile + 1) * kKeys > allVisible, visible);
    };
    const auto packWeights = [&] {  // two neighbouring fragments of scores are one of weights (mma.cuh)
#pragma unroll
      for (int i = 0; i < kKeys / 4; i++)
        weights[i / 4][i % 4] = packPair<T>(scores[2 * i], scores[2 * i + 1]);
    };
    const T* const q = &s.q[consumer][0][0][0];

    if (work.keyTiles > 0) {
      s.kFull[kAt.stage].wait(kAt.parity);
      startScores<T, kDim, kPaged>(scores, q, s.k[kAt.stage]);
      wgmmaWait<0>();
      pin(scores);
      release(s.kEmpty[kAt.stage]);
      kAt.advance();
      toWeights(0);
      packWeights();

      for (int tile = 1; tile < work.keyTiles; tile++) {
        s.kFull[kAt.stage].wait(kAt.parity);
        awaitTurn();
        startScores<T, kDim, kPaged>(scores, q, s.k[kAt.stage]);
        s.vFull[vAt.stage].wait(vAt.parity);
        startOutput<T, kDim, kPaged>(out, weights, s.v[vAt.stage]);
        passTurn();
        wgmmaWait<1>();
        pin(scores);
        release(s.kEmpty[kAt.stage]);
        kAt.advance();
        toWeights(tile);
        wgmmaWait<0>();
        pin(out);
        release(s.vEmpty[vAt.stage]);
        vAt.advance();
#pragma unroll
        for (int i = 0; i < kDim / 2; i++) out[i] *= softmax.rescale[i / 2 % 2];
        packWeights();
      }
    }
    release(s.qEmpty[consumer]);
    if (work.keyTiles > 0) {
      s.vFull[vAt.stage].wait(vAt.parity);
      const int keys = work.sequence.keys - (work.keyTiles - 1) * kKeys;
      if (keys < kKeys) {
        clearRows<T, kDim, kPaged>(s.v[vAt.stage], keys);
        namedBarrierSync(kOwnBarrier + consumer, kWarpgroup);
      }
      startOutput<T, kDim, kPaged>(out, weights, s.v[vAt.stage]);
      wgmmaWait<0>();
      pin(out);
      release(s.vEmpty[vAt.stage]);
      vAt.advance();
    }
    storeRows<T, kDim>(p, work, out, softmax, firstQuery, row, sharing);
  }
  if (consumer == 0) awaitTurn();  // the turn that was passed last
}

#endif  // NANO_HOPPER
}  // namespace nanovllm::cuda

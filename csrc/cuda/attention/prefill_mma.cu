// Prefill attention, rung 3: both matrix products on the tensor cores (mma.sync), as FlashAttention-2 does on
// Ampere (Dao 2023).
//
// What it adds to rung 2:
// - Tensor cores: one instruction multiplies a 16x16 and a 16x8 tile, fifteen times the rate of FMA.
// - Scores, weights and output stay in registers: a warp has its rows to itself, and the fragment in which it
//   gets scores is the fragment in which the second product takes weights (mma.cuh). Only Q, K and V lie in
//   shared memory. With 32 rows a warp, a fragment of K or V is multiplied twice for each time it is loaded.
// - Copies in the background (cp.async): V travels while Q K^T is computed, the next K while P V is.
// - Swizzled rows: 16-byte chunk c of row r lies at place c ^ (r % 8). The eight rows that ldmatrix reads at
//   once are then in different banks, without padding.
// - Rows are (query, head) pairs: the query heads that share a key head are rows of one tile, so K and V are
//   read once for all of them. A decoding sequence has one query, but heads / kvHeads rows.
//
// Batch invariance: key tiles have a fixed size and are walked from key 0; a row never meets another row, and
// a tile whose keys it does not see leaves it unchanged, bit by bit (prefill.cuh, rescaleFactor). So its
// result does not depend on what else is in the batch, on how the prompt was cut into chunks, or on the
// blocks its keys lie in.
#include "cuda/attention/mma.cuh"
#include "cuda/attention/prefill.cuh"
#include "cuda/launch.cuh"

namespace nanovllm::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kThreads = kWarps * kWarp;

/// Shared memory for head sizes up to kDim, a multiple of 32. A warp has kRowTiles times 16 rows.
template <class T, int kDim, int kRowTiles>
struct Tiles {
  static constexpr int kRows = kWarps * kRowTiles * 16;
  static constexpr int kKeys = kDim <= 128 ? 64 : 32;
  // Swizzling permutes eight chunks, so rows have a multiple of 64 numbers.
  static constexpr int kRowLength = (kDim + 63) / 64 * 64;

  T q[kRows][kRowLength];
  T k[kKeys][kRowLength];
  T v[kKeys][kRowLength];
  // Where the keys of a tile and of the next one lie: the block table is read, and divided by, once for each
  // key.
  typename PrefillParams<T>::Offsets keys[2][kKeys];
};

/// Starts copying rows; rows without a source and columns beyond the head become zeros.
template <int kCount, int kDim, class T, int kRowLength, class Source>
__device__ __forceinline__ void copyRows(T (*to)[kRowLength], int headDim, const T* somewhere,
                                         const Source& source) {
  constexpr int kChunks = kRowLength / 8;
  const int chunk = threadIdx.x % kChunks;
  if (chunk * 8 >= kDim) return;  // nobody reads there
  const bool inHead = chunk * 8 < headDim;
#pragma unroll
  for (int row = threadIdx.x / kChunks; row < kCount; row += kThreads / kChunks) {
    const T* from = source(row);
    const bool exists = from && inHead;
    copyAsync16(chunkOf(to, row, chunk), exists ? from + chunk * 8 : somewhere, exists);
  }
}

/// The online softmax of a thread's two rows of a 16-row tile, g and g + 8 (mma.cuh).
struct Softmax {
  float m[2] = {-INFINITY, -INFINITY}, l[2] = {}, rescale[2];

  /// Turns scores into weights. Keys from `visible` on (counted from this thread's first column) are masked.
  template <int kTiles>
  __device__ __forceinline__ void step(float (&scores)[kTiles][4], float scaleLog2, bool masked,
                                       const int (&visible)[2]) {
    if (masked) {
#pragma unroll
      for (int n = 0; n < kTiles; n++) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
          if (8 * n + i % 2 >= visible[i / 2]) scores[n][i] = -INFINITY;
        }
      }
    }
#pragma unroll
    for (int h = 0; h < 2; h++) {
      float now = m[h];
#pragma unroll
      for (int n = 0; n < kTiles; n++) now = fmaxf(now, fmaxf(scores[n][2 * h], scores[n][2 * h + 1]));
      now = fmaxf(now, __shfl_xor_sync(kAllLanes, now, 1));  // a row lies in four lanes
      now = fmaxf(now, __shfl_xor_sync(kAllLanes, now, 2));
      const float base = finiteMax(now), scaledBase = base * scaleLog2;
      rescale[h] = rescaleFactor(m[h], base, scaleLog2);
      m[h] = now;
      float sum = 0;
#pragma unroll
      for (int n = 0; n < kTiles; n++) {
#pragma unroll
        for (int e = 0; e < 2; e++) {
          float& score = scores[n][2 * h + e];
          score = exp2Fast(fmaf(score, scaleLog2, -scaledBase));
          sum += score;
        }
      }
      l[h] = fmaf(l[h], rescale[h], sum);  // of this lane's keys; the four parts are added at the end
    }
  }
};

template <class T, int kDim, int kRowTiles>
__global__ __launch_bounds__(kThreads) void prefillMmaKernel(PrefillParams<T> p) {
  using Smem = Tiles<T, kDim, kRowTiles>;
  constexpr int kKeys = Smem::kKeys, kRows = Smem::kRows;
  extern __shared__ __align__(128) unsigned char memory[];
  Smem& s = *reinterpret_cast<Smem*>(memory);

  launchDependents();
  waitForPrevious();
  const int kvHead = blockIdx.x % p.kvHeads, b = blockIdx.x / p.kvHeads;
  const int sharing =
      p.heads / p.kvHeads;  // row r of a sequence: query r / sharing, head r % sharing of the group
  // The last rows of a causal sequence see the most keys; started first, they do not run on alone at the end.
  const int firstRow = (gridDim.y - 1 - blockIdx.y) * kRows;
  const PrefillSequence sequence = p.sequence(b);
  const int rows = sequence.queries * sharing;
  if (firstRow >= rows) return;

  const int end = sequence.visible((min(firstRow + kRows, rows) - 1) / sharing, p.causal);
  const int tiles = (end + kKeys - 1) / kKeys;
  const int64_t inRow = int64_t{kvHead} * p.headDim;

  const auto locate = [&](int tile) {
    const int key = tile * kKeys + threadIdx.x;
    if (threadIdx.x < kKeys && key < sequence.keys)
      s.keys[tile & 1][threadIdx.x] = p.keyOffsets(b, sequence.firstKey, key);
  };
  // Keys past the end become zeros: their weight is 0, but a cache slot nobody wrote may hold NaN, and 0 *
  // NaN is NaN.
  const auto copyK = [&](int tile) {
    copyRows<kKeys, kDim>(s.k, p.headDim, p.k, [&](int row) -> const T* {
      return tile * kKeys + row < sequence.keys ? p.k + s.keys[tile & 1][row].k + inRow : nullptr;
    });
  };
  const auto copyV = [&](int tile) {
    copyRows<kKeys, kDim>(s.v, p.headDim, p.v, [&](int row) -> const T* {
      return tile * kKeys + row < sequence.keys ? p.v + s.keys[tile & 1][row].v + inRow : nullptr;
    });
  };

  if (tiles > 0) {
    copyRows<kRows, kDim>(s.q, p.headDim, p.q, [&](int row) -> const T* {
      const int r = firstRow + row;
      return r < rows ? p.qRow(int64_t{sequence.firstQuery} + r / sharing, kvHead * sharing + r % sharing)
                      : nullptr;
    });
    locate(0);
    __syncthreads();
    copyK(0);
  }

  const int lane = threadIdx.x % kWarp, warpRow = threadIdx.x / kWarp * kRowTiles * 16;
  const int allVisible =
      sequence.visible((firstRow + warpRow) / sharing, p.causal);  // what even the warp's first row sees
  int visible[kRowTiles][2];
#pragma unroll
  for (int r = 0; r < kRowTiles; r++) {
#pragma unroll
    for (int h = 0; h < 2; h++) {
      const int row = firstRow + warpRow + 16 * r + 8 * h + lane / 4;
      visible[r][h] = sequence.visible(row / sharing, p.causal) - lane % 4 * 2;
    }
  }
  // Where this lane's rows of the fragments lie (mma.cuh, loadMatrices).
  const unsigned qPlace = sharedAddress(chunkOf(s.q, warpRow + lane % 16, lane / 16));
  const unsigned kPlace = sharedAddress(chunkOf(s.k, lane / 16 * 8 + lane % 8, lane / 8 % 2));
  const unsigned vPlace = sharedAddress(chunkOf(s.v, lane % 16, lane / 16));
  Softmax softmax[kRowTiles];
  float o[kRowTiles][kDim / 8][4] = {};

  for (int tile = 0; tile < tiles; tile++) {
    locate(tile + 1);
    waitForCopies();
    __syncthreads();  // K has arrived, and the V before is used up
    copyV(tile);

    float scores[kRowTiles][kKeys / 8][4] = {};
#pragma unroll
    for (int step = 0; step < kDim / 16; step++) {
      uint32_t q[kRowTiles][4];
#pragma unroll
      for (int r = 0; r < kRowTiles; r++) {
        loadMatrices(q[r], chunkFrom<T, Smem::kRowLength>(qPlace, 16 * r, step));
      }
#pragma unroll
      for (int n = 0; n < kKeys / 16; n++) {
        uint32_t k[4];  // 16 keys, 16 numbers of each: K's rows are the columns of the product's right side
        loadMatrices(k, chunkFrom<T, Smem::kRowLength>(kPlace, 16 * n, step));
#pragma unroll
        for (int r = 0; r < kRowTiles; r++) {
          multiplyAdd<T>(scores[r][2 * n], q[r], k[0], k[1]);
          multiplyAdd<T>(scores[r][2 * n + 1], q[r], k[2], k[3]);
        }
      }
    }
    waitForCopies();
    __syncthreads();  // V has arrived, and K is used up
    if (tile + 1 < tiles) copyK(tile + 1);

#pragma unroll
    for (int r = 0; r < kRowTiles; r++) {
      const int seen[2] = {visible[r][0] - tile * kKeys, visible[r][1] - tile * kKeys};
      softmax[r].step(scores[r], p.scaleLog2, (tile + 1) * kKeys > allVisible, seen);
#pragma unroll
      for (int n = 0; n < kDim / 8; n++) {
#pragma unroll
        for (int i = 0; i < 4; i++) o[r][n][i] *= softmax[r].rescale[i / 2];
      }
    }

#pragma unroll
    for (int step = 0; step < kKeys / 16; step++) {
      uint32_t weights[kRowTiles][4];
#pragma unroll
      for (int r = 0; r < kRowTiles; r++) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
          const auto& pair = scores[r][2 * step + i / 2];
          weights[r][i] = packPair<T>(pair[i % 2 * 2], pair[i % 2 * 2 + 1]);
        }
      }
#pragma unroll
      for (int n = 0; n < kDim / 16; n++) {
        uint32_t v[4];  // 16 keys, 16 columns
        loadMatricesTransposed(v, chunkFrom<T, Smem::kRowLength>(vPlace, 16 * step, n));
#pragma unroll
        for (int r = 0; r < kRowTiles; r++) {
          multiplyAdd<T>(o[r][2 * n], weights[r], v[0], v[1]);
          multiplyAdd<T>(o[r][2 * n + 1], weights[r], v[2], v[3]);
        }
      }
    }
  }

#pragma unroll
  for (int r = 0; r < kRowTiles; r++) {
#pragma unroll
    for (int h = 0; h < 2; h++) {
      float l = softmax[r].l[h];
      l += __shfl_xor_sync(kAllLanes, l, 1);
      l += __shfl_xor_sync(kAllLanes, l, 2);
      const int row = firstRow + warpRow + 16 * r + 8 * h + lane / 4;
      if (row >= rows) continue;
      const float norm = l > 0 ? 1 / l : 0;  // a query that sees nothing gives zeros
      T* const out = p.outRow(int64_t{sequence.firstQuery} + row / sharing, kvHead * sharing + row % sharing);
#pragma unroll
      for (int n = 0; n < kDim / 8; n++) {
        const uint32_t pair = packPair<T>(o[r][n][2 * h] * norm, o[r][n][2 * h + 1] * norm);
        if (8 * n < p.headDim) *reinterpret_cast<uint32_t*>(out + 8 * n + lane % 4 * 2) = pair;
      }
    }
  }
}

template <class T, int kDim, int kRowTiles>
void run(const Launch& on, const PrefillArgs& a) {
  using Smem = Tiles<T, kDim, kRowTiles>;
  const int rows = a.maxSeqlenQ * (a.heads() / a.kvHeads());
  const dim3 grid(a.kvHeads() * a.batch, (rows + Smem::kRows - 1) / Smem::kRows);
  launch(on, "prefillMma", prefillMmaKernel<T, kDim, kRowTiles>, grid, dim3(kThreads), sizeof(Smem),
         PrefillParams<T>(a));
}

/// 32 rows a warp where there is enough work for all multiprocessors; a row's result is the same.
template <class T, int kDim>
void runShape(const Launch& on, const PrefillArgs& a) {
  const int64_t rows = int64_t{a.maxSeqlenQ} * a.heads() * a.batch;
  rows >= int64_t{on.multiprocessors} * 128 ? run<T, kDim, 2>(on, a) : run<T, kDim, 1>(on, a);
}

}  // namespace

void prefillMma(const Launch& on, const PrefillArgs& a) {
  dispatch(a.q.dtype, [&](auto zero) {
    using T = decltype(zero);
    if (a.headDim() <= 64) return runShape<T, 64>(on, a);
    if (a.headDim() <= 96) return runShape<T, 96>(on, a);
    if (a.headDim() <= 128) return runShape<T, 128>(on, a);
    run<T, 256, 1>(on, a);  // 32 rows of 256 numbers would not fit into the registers
  });
}

}  // namespace nanovllm::cuda

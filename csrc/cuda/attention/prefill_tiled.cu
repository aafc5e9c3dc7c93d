// Prefill attention, rung 2: tiles of keys and values in shared memory (FlashAttention: Dao et al. 2022,
// algorithm 1, with the loops in the order of FlashAttention-2: queries outside, keys inside).
//
// A block takes 64 queries of a head and walks the keys in tiles. A tile of K and V is copied to shared
// memory once and used by all 64 queries: 64 times less traffic than rung 1. Within the block 16 x 16 threads
// share the two matrix products:
//   scores [64 x 64]    = Q [64 x D] K^T [D x 64]    thread (y, x): rows 4y..4y+3, keys x, x+16, x+32, x+48
//   output [64 x D]    += P [64 x 64] V [64 x D]     thread (y, x): rows 4y..4y+3, pairs of columns 2x + 32c
// so that a number loaded from shared memory enters four products instead of one, and a row's maximum and sum
// are spread over only 16 lanes, once for 64 keys instead of once for each key. Multiplications are ordinary
// float32 ones: what limits this rung is the rate of FMA, a fifteenth of that of the tensor cores.
#include "cuda/attention/prefill.cuh"
#include "cuda/launch.cuh"

namespace nanovllm::cuda {
namespace {

constexpr int kRows = 64;  // queries of a tile
constexpr int kSide = 16;  // threads: kSide x kSide
constexpr int kThreads = kSide * kSide;
constexpr int kMine = kRows / kSide;  // rows of a thread

template <class T, int kDim>
struct Tiles {
  static constexpr int kKeys = kDim <= 128 ? 64 : 32;
  // Eight numbers of padding: rows then start in different banks, and 16-byte loads of eight rows do not
  // collide.
  static constexpr int kRowLength = kDim + 8;
  static constexpr int kWeightRow = kKeys + 4;

  T q[kRows][kRowLength];
  T k[kKeys][kRowLength];
  T v[kKeys][kRowLength];
  float weights[kRows][kWeightRow];
};

/// Copies rows to shared memory, 16 bytes a thread. `source(row)` is null for rows that do not exist; these,
/// and columns beyond the head, become zeros.
template <int kCount, int kDim, class T, int kRowLength, class Source>
__device__ void copyRows(T (*to)[kRowLength], int headDim, const Source& source) {
  constexpr int kChunks = kDim / 8;
  for (int i = threadIdx.x; i < kCount * kChunks; i += kThreads) {
    const int row = i / kChunks, column = i % kChunks * 8;
    const T* from = source(row);
    const bool exists = from && column < headDim;
    *reinterpret_cast<uint4*>(&to[row][column]) =
        exists ? *reinterpret_cast<const uint4*>(from + column) : uint4{};
  }
}

template <class T, int kDim>
__global__ __launch_bounds__(kThreads, kDim <= 128 ? 2 : 1) void prefillTiledKernel(PrefillParams<T> p) {
  using Smem = Tiles<T, kDim>;
  using T2 = typename Pair<T>::Type;
  constexpr int kKeys = Smem::kKeys, kKeysMine = kKeys / kSide, kPairs = kDim / (2 * kSide);
  extern __shared__ __align__(16) unsigned char memory[];
  Smem& s = *reinterpret_cast<Smem*>(memory);

  launchDependents();
  waitForPrevious();
  const int head = blockIdx.x % p.heads, b = blockIdx.x / p.heads;
  // The last queries of a causal sequence see the most keys; started first, they do not run on alone at the
  // end.
  const int firstRow = (gridDim.y - 1 - blockIdx.y) * kRows;
  const PrefillSequence sequence = p.sequence(b);
  if (firstRow >= sequence.queries) return;
  const int kvHead = head / (p.heads / p.kvHeads);
  const int x = threadIdx.x % kSide, y = threadIdx.x / kSide;

  copyRows<kRows, kDim>(s.q, p.headDim, [&](int row) -> const T* {
    const int query = firstRow + row;
    return query < sequence.queries ? p.qRow(int64_t{sequence.firstQuery} + query, head) : nullptr;
  });

  int visible[kMine];
  float m[kMine], l[kMine], o[kMine][2 * kPairs] = {};
#pragma unroll
  for (int i = 0; i < kMine; i++) {
    visible[i] = sequence.visible(firstRow + kMine * y + i, p.causal);
    m[i] = -INFINITY;
    l[i] = 0;
  }
  const int lastQuery = min(firstRow + kRows, sequence.queries) - 1;
  const int end = sequence.visible(lastQuery, p.causal);

  for (int first = 0; first < end; first += kKeys) {
    __syncthreads();  // the tile before is used up
    // Keys past the end become zeros: their weight is 0, but a cache slot nobody wrote may hold NaN, and 0 *
    // NaN is NaN.
    const auto row = [&](int key, const T* base, bool isK) -> const T* {
      if (first + key >= sequence.keys) return nullptr;
      const auto at = p.keyOffsets(b, sequence.firstKey, first + key);
      return base + (isK ? at.k : at.v) + int64_t{kvHead} * p.headDim;
    };
    copyRows<kKeys, kDim>(s.k, p.headDim, [&](int key) { return row(key, p.k, true); });
    copyRows<kKeys, kDim>(s.v, p.headDim, [&](int key) { return row(key, p.v, false); });
    __syncthreads();

    float scores[kMine][kKeysMine] = {};
#pragma unroll 1
    for (int d = 0; d < kDim; d += 8) {
      float q[kMine][8];
#pragma unroll
      for (int i = 0; i < kMine; i++)
        unpack<T>(*reinterpret_cast<const uint4*>(&s.q[kMine * y + i][d]), q[i]);
#pragma unroll
      for (int j = 0; j < kKeysMine; j++) {
        float k[8];
        unpack<T>(*reinterpret_cast<const uint4*>(&s.k[x + kSide * j][d]), k);
#pragma unroll
        for (int i = 0; i < kMine; i++) {
#pragma unroll
          for (int e = 0; e < 8; e++) scores[i][j] += q[i][e] * k[e];
        }
      }
    }

#pragma unroll
    for (int i = 0; i < kMine; i++) {
      float now = m[i];
#pragma unroll
      for (int j = 0; j < kKeysMine; j++) {
        if (first + x + kSide * j >= visible[i]) scores[i][j] = -INFINITY;
        now = fmaxf(now, scores[i][j]);
      }
      // The 16 threads of a row are half a warp.
#pragma unroll
      for (int offset = kSide / 2; offset > 0; offset /= 2)
        now = fmaxf(now, __shfl_xor_sync(kAllLanes, now, offset));
      const float base = finiteMax(now);
      const float rescale = rescaleFactor(m[i], base, p.scaleLog2);
      m[i] = now;
      l[i] *= rescale;
#pragma unroll
      for (int c = 0; c < 2 * kPairs; c++) o[i][c] *= rescale;
#pragma unroll
      for (int j = 0; j < kKeysMine; j++) {
        const float weight = exp2Fast((scores[i][j] - base) * p.scaleLog2);
        l[i] += weight;  // of this thread's keys; the 16 parts are added at the end
        s.weights[kMine * y + i][x + kSide * j] = weight;
      }
    }
    __syncwarp();  // a row's weights are written and read by the same half warp

#pragma unroll 1
    for (int key = 0; key < kKeys; key += 4) {
      float4 weights[kMine];
#pragma unroll
      for (int i = 0; i < kMine; i++)
        weights[i] = *reinterpret_cast<const float4*>(&s.weights[kMine * y + i][key]);
#pragma unroll
      for (int e = 0; e < 4; e++) {
#pragma unroll
        for (int c = 0; c < kPairs; c++) {
          const float2 v = toFloat2(*reinterpret_cast<const T2*>(&s.v[key + e][2 * x + 2 * kSide * c]));
#pragma unroll
          for (int i = 0; i < kMine; i++) {
            const float weight = e == 0   ? weights[i].x
                                 : e == 1 ? weights[i].y
                                 : e == 2 ? weights[i].z
                                          : weights[i].w;
            o[i][2 * c] += weight * v.x;
            o[i][2 * c + 1] += weight * v.y;
          }
        }
      }
    }
    __syncwarp();
  }

#pragma unroll
  for (int i = 0; i < kMine; i++) {
#pragma unroll
    for (int offset = kSide / 2; offset > 0; offset /= 2) l[i] += __shfl_xor_sync(kAllLanes, l[i], offset);
    const int query = firstRow + kMine * y + i;
    if (query >= sequence.queries) continue;
    const float norm = l[i] > 0 ? 1 / l[i] : 0;
    T* const out = p.outRow(int64_t{sequence.firstQuery} + query, head);
#pragma unroll
    for (int c = 0; c < kPairs; c++) {
      const int column = 2 * x + 2 * kSide * c;
      if (column >= p.headDim) continue;
      T2 pair;
      pair.x = fromFloat<T>(o[i][2 * c] * norm);
      pair.y = fromFloat<T>(o[i][2 * c + 1] * norm);
      *reinterpret_cast<T2*>(out + column) = pair;
    }
  }
}

template <class T, int kDim>
void run(const Launch& on, const PrefillArgs& a) {
  const dim3 grid(a.heads() * a.batch, (a.maxSeqlenQ + kRows - 1) / kRows);
  launch(on, "prefillTiled", prefillTiledKernel<T, kDim>, grid, dim3(kThreads), sizeof(Tiles<T, kDim>),
         PrefillParams<T>(a));
}

}  // namespace

void prefillTiled(const Launch& on, const PrefillArgs& a) {
  dispatch(a.q.dtype, [&](auto zero) {
    using T = decltype(zero);
    if (a.headDim() <= 64) return run<T, 64>(on, a);
    if (a.headDim() <= 128) return run<T, 128>(on, a);
    run<T, 256>(on, a);
  });
}

}  // namespace nanovllm::cuda

// A matrix product of our own on tensor cores: out[T, N] = x[T, K] · weight[N, K]ᵀ, step by step.
//
// Tiles. Every number of x meets every row of the weights, N times in all; fetched from memory each time, it
// would keep the tensor cores waiting. So a block computes a tile of 128 × kColumns outputs, for which it
// needs 128 rows of x and kColumns rows of weights: each number it fetches serves 128 (or kColumns) products.
// It walks along K in steps of 64 and keeps the sums in registers. Inside the block the same once more: a
// warp owns 64 rows and half of the columns, so that what it loads from shared memory into registers serves
// 64 products.
//
// Pipeline. A step's inputs need most of a microsecond to arrive. cp.async copies them into shared memory
// without passing through registers and without waiting, so that while step s is multiplied, steps s+1 and
// s+2 are on their way: three buffers.
//
// Swizzle. In a buffer a row is 64 numbers: 128 bytes, all 32 banks of shared memory. ldmatrix reads eight
// rows' 16-byte chunks of one column at a time. Stored plainly these would lie in the same four banks and be
// read one after the other. Chunk c of row r is therefore stored at place c xor (r mod 8): a column's eight
// chunks lie in eight different places, and all banks work.
//
// One order for all. The tile's shape depends on N, never on T, and an output's sum runs over K in the same
// order wherever its row stands. So a row's bits depend on that row alone, in a batch of one as in a batch of
// 1000. The price: with few rows most of a tile is empty. Empty rows are not fetched, nor multiplied where a
// warp has at most 16 rows.
#include <algorithm>

#include "cuda/launch.cuh"
#include "cuda/linear_mma.cuh"

namespace nanovllm::cuda {
namespace {

constexpr int kThreads = 128;  // four warps: two along T, two along N
constexpr int kRows = 128, kStep = 64, kStages = 3;
constexpr int kChunk = 8, kChunksPerRow = kStep / kChunk;  // numbers in 16 bytes
constexpr int kChunkBytes = 16, kRowBytes = kStep * 2;
constexpr int kWarpRows = kRows / 2, kRowTiles = kWarpRows / 16;

template <int kColumns>
constexpr int kStageBytes = (kRows + kColumns) * kRowBytes;

template <class T>
struct Args {
  const T *x, *weight;
  const float* bias;
  int64_t xStride, weightStride, outStride;
  int rows, n, k;
  bool accumulate;
};

/// Starts the copies of `kTileRows` rows of one step into a buffer. Each thread takes one column of chunks,
/// every 16th row.
template <int kTileRows, class T>
__device__ __forceinline__ void fetchTile(uint32_t buffer, const T* from, int64_t stride, int rowsLeft, int k,
                                          int kEnd) {
  constexpr int kRowsAtOnce = kThreads / kChunksPerRow;
  const int row = threadIdx.x / kChunksPerRow, chunk = threadIdx.x % kChunksPerRow;
  const bool inside = k + chunk * kChunk < kEnd;
  const T* const source = from + row * stride + k + chunk * kChunk;
  const uint32_t target = buffer + row * kRowBytes + (chunk ^ row % 8) * kChunkBytes;
#pragma unroll
  for (int r = 0; r < kTileRows; r += kRowsAtOnce) {
    const bool valid = inside && row + r < rowsLeft;
    copyAsync(target + r * kRowBytes, valid ? source + r * stride : from, valid);
  }
}

/// Multiplies one step: the first `kLive` of a warp's tiles of 16 rows with its columns, 16 of K at a time.
template <int kLive, int kColumnTiles, class T>
__device__ __forceinline__ void multiply(float (&sums)[kRowTiles][kColumnTiles][4], uint32_t xBuffer,
                                         uint32_t weightBuffer) {
  const int lane = threadIdx.x % kWarp;
  // Which row and chunk each lane points ldmatrix at (linear_mma.cuh): for x the matrices of an A fragment,
  // [rows 0-7 | rows 8-15] × [k 0-7 | k 8-15], first down, then right; for the weights two B fragments, first
  // right.
  const uint32_t xRow = xBuffer + lane % 16 * kRowBytes,
                 weightRow = weightBuffer + (lane % 8 + lane / 16 * 8) * kRowBytes;
  const int xChunk = lane / 16, weightChunk = lane / 8 % 2, swizzle = lane % 8;
#pragma unroll
  for (int k = 0; k < kStep / 16; k++) {
    const uint32_t xPlace = ((2 * k + xChunk) ^ swizzle) * kChunkBytes;
    const uint32_t weightPlace = ((2 * k + weightChunk) ^ swizzle) * kChunkBytes;
    uint32_t x[kLive][4], weight[kColumnTiles / 2][4];
#pragma unroll
    for (int i = 0; i < kLive; i++) loadMatrices(x[i], xRow + i * 16 * kRowBytes + xPlace);
#pragma unroll
    for (int j = 0; j < kColumnTiles / 2; j++)
      loadMatrices(weight[j], weightRow + j * 16 * kRowBytes + weightPlace);
#pragma unroll
    for (int i = 0; i < kLive; i++) {
#pragma unroll
      for (int j = 0; j < kColumnTiles; j++) {
        mma<T>(sums[i][j], x[i][0], x[i][1], x[i][2], x[i][3], weight[j / 2][j % 2 * 2],
               weight[j / 2][j % 2 * 2 + 1]);
      }
    }
  }
}

/// Two neighbouring outputs. `aligned`: in one store.
template <class Out>
__device__ __forceinline__ void storeTwo(Out* to, float first, float second, bool aligned, bool both) {
  struct alignas(2 * sizeof(Out)) Two {
    Out value[2];
  };
  if (aligned) {
    *reinterpret_cast<Two*>(to) = {fromFloat<Out>(first), fromFloat<Out>(second)};
  } else {
    to[0] = fromFloat<Out>(first);
    if (both) to[1] = fromFloat<Out>(second);
  }
}

template <class T, class Out, int kColumns>
__global__ void __launch_bounds__(kThreads, 2) gemmKernel(Out* out, Args<T> a) {
  constexpr int kColumnTiles = kColumns / 2 / 8;
  extern __shared__ __align__(128) unsigned char shared[];
  const int firstRow = blockIdx.x * kRows, firstColumn = blockIdx.y * kColumns;
  const int warp = threadIdx.x / kWarp, warpRow = warp / 2 * kWarpRows,
            warpColumn = warp % 2 * (kColumns / 2);
  const uint32_t buffers = sharedAddress(shared);
  const int steps = (a.k + kStep - 1) / kStep;

  const auto buffer = [&](int step) { return buffers + step % kStages * kStageBytes<kColumns>; };
  const auto fetchX = [&](int step) {
    fetchTile<kRows>(buffer(step), a.x + firstRow * a.xStride, a.xStride, a.rows - firstRow, step * kStep,
                     a.k);
  };
  const auto fetchWeights = [&](int step) {
    fetchTile<kColumns>(buffer(step) + kRows * kRowBytes, a.weight + firstColumn * a.weightStride,
                        a.weightStride, a.n - firstColumn, step * kStep, a.k);
  };

  // The first weights may be fetched before the kernel that computes x has ended.
  for (int step = 0; step < kStages - 1 && step < steps; step++) fetchWeights(step);
  launchDependents();
  waitForPrevious();
  for (int step = 0; step < kStages - 1; step++) {
    if (step < steps) fetchX(step);
    commitCopies();
  }

  float sums[kRowTiles][kColumnTiles][4] = {};
  const int rowsLeft = a.rows - firstRow - warpRow;
  for (int step = 0; step < steps; step++) {
    waitForCopies<kStages - 2>();
    // One barrier for two purposes: everyone's copies of this step have arrived, and everyone is done with
    // the step before, whose buffer the next copies fill.
    __syncthreads();
    if (const int next = step + kStages - 1; next < steps) {
      fetchX(next);
      fetchWeights(next);
    }
    commitCopies();
    const uint32_t x = buffer(step) + warpRow * kRowBytes,
                   weight = buffer(step) + (kRows + warpColumn) * kRowBytes;
    if (rowsLeft > 16) {
      multiply<kRowTiles, kColumnTiles, T>(sums, x, weight);
    } else if (rowsLeft > 0) {
      multiply<1, kColumnTiles, T>(sums, x, weight);
    }
  }

  const int lane = threadIdx.x % kWarp;
  const bool evenRows = (reinterpret_cast<uintptr_t>(out) / sizeof(Out) | a.outStride) % 2 == 0;
#pragma unroll
  for (int j = 0; j < kColumnTiles; j++) {
    const int column = firstColumn + warpColumn + j * 8 + lane % 4 * 2;
    if (column >= a.n) continue;
    const bool both = column + 1 < a.n;
    const float bias0 = a.bias ? a.bias[column] : 0.0f, bias1 = a.bias && both ? a.bias[column + 1] : 0.0f;
#pragma unroll
    for (int i = 0; i < kRowTiles; i++) {
#pragma unroll
      for (int half = 0; half < 2; half++) {
        const int row = firstRow + warpRow + i * 16 + half * 8 + lane / 4;
        if (row >= a.rows) continue;
        Out* const to = out + row * a.outStride + column;
        const float before0 = a.accumulate ? toFloat(to[0]) : 0.0f,
                    before1 = a.accumulate && both ? toFloat(to[1]) : 0.0f;
        storeTwo(to, before0 + (sums[i][j][2 * half] + bias0), before1 + (sums[i][j][2 * half + 1] + bias1),
                 evenRows && both, both);
      }
    }
  }
}

template <class T, class Out, int kColumns>
void launchGemm(const Launch& on, const LinearArgs& args) {
  const int n = static_cast<int>(args.weight.size[0]), rows = static_cast<int>(args.x.size[0]);
  const Args<T> a{args.x.as<T>(),
                  args.weight.as<T>(),
                  args.bias.f32(),
                  args.x.stride[0],
                  args.weight.stride[0],
                  args.out.stride[0],
                  rows,
                  n,
                  static_cast<int>(args.weight.size[1]),
                  args.accumulate};
  // Blocks that run together share their weights: those along T come first.
  const dim3 grid((rows + kRows - 1) / kRows, (n + kColumns - 1) / kColumns);
  launch(on, "gemmMma", gemmKernel<T, Out, kColumns>, grid, kThreads, kStages * kStageBytes<kColumns>,
         args.out.as<Out>(), a);
}

}  // namespace

void gemmMma(const Launch& on, const LinearArgs& args) {
  dispatch(args.x.dtype, [&](auto zero) {
    using T = decltype(zero);
    const auto forOut = [&](auto out) {
      using Out = decltype(out);
      // Narrow layers get narrow tiles: more blocks for a GPU of more than 100 multiprocessors.
      args.weight.size[0] <= 2048 ? launchGemm<T, Out, 64>(on, args) : launchGemm<T, Out, 128>(on, args);
    };
    args.out.dtype == DType::kFloat32 ? forOut(0.0f) : forOut(zero);
  });
}

}  // namespace nanovllm::cuda

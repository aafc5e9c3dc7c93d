// The linear layer of decoding: out[T, N] = x[T, K] · weight[N, K]ᵀ for a few rows x. Every weight is used T
// times and comes from memory once, so that the time is that of reading the weights, and the kernel's task is
// to keep memory busy:
//
// 1. Enough bytes under way. Memory answers after almost a microsecond, in which it could have delivered 3
//    MB, so 20 to 30 KB an SM must always be asked for. Each warp has a ring of stages in shared memory that
//    asynchronous copies fill, 96 KB a block: memory sees requests far ahead of the arithmetic.
// 2. Before its turn. In a decode step the input of a layer comes from the kernel before; the weights do not.
//    With programmatic dependent launch (launch.cuh) the block fills its rings with weights before it waits
//    for that kernel. A small layer's weights then lie on the chip when x arrives, and memory has worked
//    through the kernels between.
// 3. Arithmetic that costs nothing. A tensor core multiplies 16 rows of x with 8 rows of weights for the
//    price of one instruction, in the very format they are stored in. Of the 16 rows T are used. It hardly
//    matters that the others are zeros, and it makes the order of additions the same for every T: a row's
//    bits depend on that row alone.
//
// Work: a tile is 8 weight rows. A block's 16 warps share the tile's K, 64 at a time, and add up their sums
// in shared memory. So even 1024 outputs keep 128 SMs reading; with more tiles than SMs a block walks over
// several. What remains after x has arrived is what the step waits for, hence the warps meet not at every
// tile's end, but once a round of their rings.
#include <algorithm>

#include "cuda/launch.cuh"
#include "cuda/linear_mma.cuh"
#include "cuda/rows.cuh"

namespace nanovllm::cuda {
namespace {

constexpr int kWarps = 16, kThreads = kWarps * kWarp;
constexpr int kTile = 8;
/// What a warp takes of K at once, in two pieces of 32: what a tensor core instruction pair takes.
constexpr int kStep = 64, kPieces = 2;
/// Stages of a ring.
constexpr int kAhead = 6;
/// Pieces of x that a lane loads together.
constexpr int kBatch = 6;
/// Sums of a round: at most one tile a stage.
template <int kRows>
constexpr int kSums = kAhead * kRows * kTile;
static_assert(kSums<kGemvMaxRows> <= kThreads, "a thread for each of a round's sums");

/// Eight weight rows of 64: 128 bytes a row. Chunks (16 bytes) c and c + 4 of odd rows change places, so that
/// two rows' chunks q = 0 … 3, which eight lanes read together, lie in different banks.
struct Stage {
  uint4 chunks[kTile][8];

  __device__ __forceinline__ uint4& at(int row, int chunk) { return chunks[row][chunk ^ row % 2 * 4]; }
};

template <class T>
struct Args {
  const T *x, *weight;
  const float* bias;
  int64_t xStride, weightStride, outStride;
  int rows, n, k;
  bool swiglu, accumulate;
};

/// A place in a warp's list of work: steps warp, warp + 16, … of the block's first tile, then of its next, …
struct Place {
  int tile, step;

  __device__ __forceinline__ void advance(int stepsPerTile) {
    step += kWarps;
    if (step < stepsPerTile) return;
    step = threadIdx.x / kWarp;
    tile += gridDim.x;
  }
};

template <class T, class Out, int kRows>
__global__ void __launch_bounds__(kThreads, 2) gemvKernel(Out* out, Args<T> a) {
  extern __shared__ __align__(128) unsigned char shared[];
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  // As an operand of the tensor core a lane has row g (of the tile; of x) and its quarter q of every 32
  // numbers of K.
  const int g = lane / 4, q = lane % 4;
  const int stepsPerWarp = (a.k + kWarps * kStep - 1) / (kWarps * kStep),
            stepsPerTile = stepsPerWarp * kWarps;
  // With SwiGLU a tile is four rows of gate and the same four of up.
  const int outputs = a.swiglu ? a.n / 2 : a.n, columns = a.swiglu ? kTile / 2 : kTile;
  const int tiles = (outputs + columns - 1) / columns;
  const int items = (tiles - blockIdx.x + gridDim.x - 1) / gridDim.x * stepsPerWarp,
            stages = min(items, kAhead);

  // Shared memory: the rings; every warp's sums; its part of x, as fragments that its lanes write and read
  // themselves.
  constexpr int kXPerStep = kPieces * kRows * 4;
  Stage* const ring = reinterpret_cast<Stage*>(shared) + warp * stages;
  float (*const sums)[kSums<kRows>] =
      reinterpret_cast<float (*)[kSums<kRows>]>(reinterpret_cast<Stage*>(shared) + kWarps * stages);
  uint4* const allX = reinterpret_cast<uint4*>(sums + kWarps);
  uint4* const xs = allX + warp * stepsPerWarp * kXPerStep + g * 4 + q;

  // For copying, eight lanes take 128 neighbouring bytes of a row: whole lines of the caches.
  const auto fetch = [&](Stage& stage, Place at) {
    const int chunk = lane % 8, k = at.step * kStep + chunk * 8;
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int row = half * 4 + lane / 8;
      const int output = at.tile * columns + (a.swiglu ? lane / 8 : row),
                source = output + (a.swiglu ? half * outputs : 0);
      const bool valid = output < outputs && k < a.k;
      streamAsync(sharedAddress(&stage.at(row, chunk)),
                  valid ? a.weight + source * a.weightStride + k : a.weight, valid);
    }
  };

  Place ahead{static_cast<int>(blockIdx.x), warp};
#pragma unroll
  for (int i = 0; i < kAhead; i++) {
    if (i < stages) {
      fetch(ring[i], ahead);
      ahead.advance(stepsPerTile);
    }
    commitCopies();  // a group a stage, even an empty one, so that counting groups counts stages
  }
  launchDependents();
  waitForPrevious();

  const int pieces = stepsPerWarp * kPieces;
  const auto numberOf = [&](int piece) {
    return (piece / kPieces * kWarps + warp) * kStep + piece % kPieces * 32 + q * 8;
  };
  for (int first = 0; first < pieces && g < kRows; first += kBatch) {
    uint4 bits[kBatch];
#pragma unroll
    for (int i = 0; i < kBatch; i++) {
      const int k = numberOf(first + i);
      const bool valid = first + i < pieces && g < a.rows && k < a.k;
      bits[i] = valid ? *reinterpret_cast<const uint4*>(a.x + g * a.xStride + k) : uint4{};
    }
#pragma unroll
    for (int i = 0; i < kBatch; i++) {
      if (first + i >= pieces) break;
      xs[(first + i) * kRows * 4] = bits[i];
    }
  }

  float even[4] = {}, odd[4] = {};  // two sums, so that an instruction need not wait for the one before
  int tile = blockIdx.x, step = 0;
  for (int round = 0; round < items; round += kAhead) {
    // After the round a thread has one of its outputs, and, to add to it, reads now what is there.
    const int index = threadIdx.x, column = index % kTile, row = index / kTile % kRows,
              which = index / kTile / kRows;
    const int n = (tile + which * gridDim.x) * columns + column;
    const bool mine = which < kAhead && row < a.rows && column < columns && n < outputs;
    Out* const to = out + row * a.outStride + n;
    const float before = a.accumulate && mine ? toFloat(*to) : 0.0f;
    int finished = 0;
#pragma unroll
    for (int i = 0; i < kAhead; i++) {
      if (round + i >= items) break;
      waitForCopies<kAhead - 1>();
      __syncwarp();  // the lanes' copies are each other's operands
#pragma unroll
      for (int p = 0; p < kPieces; p++) {
        const uint4 w = ring[i].at(g, p * 4 + q);
        const uint4 x = g < kRows ? xs[(step * kPieces + p) * kRows * 4] : uint4{};
        // A lane's eight neighbours along K go to two instructions, four to each. Which k an instruction
        // takes them for does not matter, as long as it is the same for x and for the weights.
        mma<T>(even, x.x, 0, x.y, 0, w.x, w.y);
        mma<T>(odd, x.z, 0, x.w, 0, w.z, w.w);
      }
      if (round + i + kAhead < items) {
        __syncwarp();
        fetch(ring[i], ahead);
        ahead.advance(stepsPerTile);
      }
      commitCopies();
      if (++step < stepsPerWarp) continue;
      if (g < kRows) {
        float* const to = &sums[warp][(finished * kRows + g) * kTile + 2 * q];
        *reinterpret_cast<float2*>(to) = make_float2(even[0] + odd[0], even[1] + odd[1]);
      }
      even[0] = even[1] = odd[0] = odd[1] = 0;
      step = 0;
      finished++;
    }

    __syncthreads();
    const auto total = [&](int index) {
      float sum = 0;
#pragma unroll
      for (int w = 0; w < kWarps; w++) sum += sums[w][index];
      return sum;
    };
    if (mine && which < finished) {
      float result = total(index);
      if (a.bias) result += a.bias[n];
      if (a.swiglu) result = __fdividef(result, 1.0f + __expf(-result)) * total(index + kTile / 2);
      *to = fromFloat<Out>(before + result);
    }
    tile += finished * gridDim.x;
    if (round + kAhead < items) __syncthreads();  // the sums are free again
  }
}

template <class T, class Out, int kRows>
void launchGemv(const Launch& on, const GemvArgs& args, int first, int rows) {
  const int n = static_cast<int>(args.weight.size[0]), k = static_cast<int>(args.weight.size[1]);
  const int columns = args.swiglu ? kTile / 2 : kTile, outputs = args.swiglu ? n / 2 : n;
  const int tiles = (outputs + columns - 1) / columns, blocks = std::min(tiles, on.multiprocessors);
  const int stepsPerWarp = (k + kWarps * kStep - 1) / (kWarps * kStep);
  const int stages = std::min((tiles + blocks - 1) / blocks * stepsPerWarp, kAhead);
  const size_t inputBytes = stepsPerWarp * kStep * kRows * sizeof(T);
  const size_t shared = kWarps * (stages * sizeof(Stage) + kSums<kRows> * sizeof(float) + inputBytes);
  const Args<T> a{args.x.as<T>() + first * args.x.stride[0],
                  args.weight.as<T>(),
                  args.bias.f32(),
                  args.x.stride[0],
                  args.weight.stride[0],
                  args.out.stride[0],
                  rows,
                  n,
                  k,
                  args.swiglu,
                  args.accumulate};
  launch(on, "gemv", gemvKernel<T, Out, kRows>, blocks, kThreads, shared,
         args.out.as<Out>() + first * args.out.stride[0], a);
}

/// Rows whose x leaves room in shared memory for the rings (of 227 KB on Hopper, of 163 KB on Ampere).
int rowsAtOnce(const Launch& on, int64_t k) {
  const int64_t room = on.arch >= 90 ? 96 << 10 : 40 << 10, rowBytes = (k + 1023) / 1024 * 1024 * 2;
  int rows = kGemvMaxRows;
  while (rows > 1 && rows * rowBytes > room) rows /= 2;
  return rows;
}

}  // namespace

void gemv(const Launch& on, const GemvArgs& args) {
  const int atOnce = rowsAtOnce(on, args.weight.size[1]);
  dispatch(args.x.dtype, [&](auto zero) {
    using T = decltype(zero);
    const auto forOut = [&](auto out) {
      using Out = decltype(out);
      for (int first = 0; first < args.x.size[0]; first += atOnce) {
        const int rows = std::min(static_cast<int>(args.x.size[0]) - first, atOnce);
        const auto launcher = rows == 1   ? launchGemv<T, Out, 1>
                              : rows == 2 ? launchGemv<T, Out, 2>
                              : rows <= 4 ? launchGemv<T, Out, 4>
                                          : launchGemv<T, Out, 8>;
        launcher(on, args, first, rows);
      }
    };
    args.out.dtype == DType::kFloat32 ? forOut(0.0f) : forOut(zero);
  });
}

}  // namespace nanovllm::cuda

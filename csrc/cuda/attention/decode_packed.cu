// Decode attention, third rung: all query heads of a group share each key, loads are wide and early, and
// blocks have equal shares of the batch.
//
// Packed: the query heads that read one key head are handled together, so that the cache is read once, not
// once for each. They are the columns of a tensor-core product (decode_mma.cuh), where up to eight heads cost
// the same as one.
//
// Wide and early: a lane reads 16 bytes at a time, and a warp has up to two tiles of them on their way while
// it computes (decode_tiles.cuh). Bandwidth is bytes in flight divided by latency (Little's law): 3 TB/s
// times 1 µs is 3 MB, 23 KB for each multiprocessor at every moment. In decodeSplit a warp waits for each key
// before it asks for the next.
//
// Equal shares: as many blocks as the GPU holds at a time, each with the same number of tiles
// (decode_shares.cuh).
//
// One launch: of the blocks which share a unit, the last to arrive merges what all of them left
// (decode_merge.cuh).
#include <algorithm>

#include "cuda/attention/decode.cuh"
#include "cuda/attention/decode_cluster.cuh"
#include "cuda/attention/decode_merge.cuh"
#include "cuda/attention/decode_shares.cuh"
#include "cuda/attention/decode_tiles.cuh"

namespace nanovllm::cuda {
namespace {

template <class T, int kWarps, int kDims, bool kPadded, int kBlocks>
__global__ void __launch_bounds__(kWarps* kWarp, kBlocks)
    packedKernel(const Decode<T> a, const Scratch scratch) {
  __shared__ States<kWarps, kDims> states;
  launchDependents();
  waitForPrevious();

  // Sequences without keys have no tiles, but a result.
  for (int b = blockIdx.x; b < a.batch; b += gridDim.x) {
    if (a.lengths[b] > 0) continue;
    auto* const row = reinterpret_cast<uint4*>(a.out + int64_t{b} * a.heads * a.dim);
    for (int i = threadIdx.x; i < a.heads * a.dim / 8; i += kWarps * kWarp) row[i] = uint4{};
  }

  const int passes = (a.group + kMmaHeads - 1) / kMmaHeads;  // larger groups read their keys more than once
  Shares<kWarps * kMmaKeys> shares(a.lengths, a.batch, a.kvHeads * passes);
  for (Piece piece; shares.next(piece);) {
    const int kv = piece.unit / passes, skipped = piece.unit % passes * kMmaHeads;
    const Heads heads = {kv, kv * a.group + skipped, min(a.group - skipped, kMmaHeads)};
    {
      WarpTiles<T, kWarps, kDims, kPadded> tiles(a, piece, heads);
      tiles.run();
      tiles.store(states);
    }
    __syncthreads();

    const int dim = kPadded ? a.dim : kDims;
    const Owners owners = shares.ownersOf(piece);
    // A unit that began in an earlier block lies at the start of this one's share, any other at its end.
    const int64_t place = (int64_t{blockIdx.x} * 2 + (blockIdx.x == owners.first)) * kMmaHeads;
    bool whole = owners.count == 1;
    int parts = kWarps;
    while (true) {
      mergeStates(states, parts, heads.count, dim,
                  [&](int head, int d, const float4& out, const float2& maxSum) {
                    if (whole) {
                      writeOutput(a, piece.b, heads.first + head, d, out, maxSum.y);
                    } else {
                      *reinterpret_cast<float4*>(scratch.out + (place + head) * dim + d) = out;
                      if (d == 0) scratch.maxSum[place + head] = maxSum;
                    }
                  });
      if (whole || !lastToArrive(scratch.arrived + owners.first, owners.count)) break;
      parts = mergePartials(states, scratch, owners, heads.count, dim);
      whole = true;
      __syncthreads();
    }
    __syncthreads();  // the next piece writes `states`
  }
}

template <class T, int kWarps, int kDims, bool kPadded, int kBlocks>
void launchPacked(const Launch& on, const DecodeArgs& a, int units) {
  constexpr int kTileKeys = kWarps * kMmaKeys;
  const int64_t tiles = int64_t{units} * ((a.maxContextLen + kTileKeys - 1) / kTileKeys);
  const size_t counters = kDecodeCounters * sizeof(int32_t);
  const size_t perBlock = 2 * kMmaHeads * (sizeof(float2) + a.headDim() * sizeof(float));
  const auto room = static_cast<int64_t>((a.scratchBytes - counters) / perBlock);
  const int64_t resident = int64_t{on.multiprocessors} * kBlocks;
  const int64_t blocks = std::max<int64_t>(1, std::min({resident, tiles, room, int64_t{kDecodeCounters}}));
  auto* const maxSum = reinterpret_cast<float2*>(static_cast<char*>(a.scratch) + counters);
  auto* const out = reinterpret_cast<float*>(maxSum + blocks * 2 * kMmaHeads);
  launch(on, "decodePacked", packedKernel<T, kWarps, kDims, kPadded, kBlocks>, static_cast<unsigned>(blocks),
         kWarps * kWarp, 0, decodeFor<T>(a), Scratch{static_cast<int*>(a.scratch), maxSum, out});
}

/// A lone sequence is faster in clusters up to about 4000 keys, and a seventh slower at 8192 (H100, eight key
/// heads). The host knows only how long a context may become, and most stay well below.
constexpr int kClusterMaxContext = 8192;

template <class T, int kDims>
void launchFastest(const Launch& on, const DecodeArgs& a, int units) {
  if (on.arch == 90 && units <= kCluster && a.maxContextLen <= kClusterMaxContext) {
    launchCluster<T, kDims>(on, a, units);
  } else if (units <= on.multiprocessors) {
    // Many blocks share a unit, and merging is what takes long: large blocks leave fewer parts.
    launchPacked<T, 8, kDims, false, kDims == 64 ? 2 : 1>(on, a, units);
  } else {
    // A block has several pieces: small blocks keep the multiprocessor busy while one of them changes to its
    // next.
    launchPacked<T, kDims == 64 ? 4 : 3, kDims, false, 4>(on, a, units);
  }
}

}  // namespace

void decodePacked(const Launch& on, const DecodeArgs& a) {
  const int passes = (a.heads() / a.kvHeads() + kMmaHeads - 1) / kMmaHeads;
  const int units = a.batch() * a.kvHeads() * passes;
  if (units == 0) return;
  dispatch(a.q.dtype, [&](auto zero) {
    using T = decltype(zero);
    const int dim = a.headDim();
    if (dim == 64) return launchFastest<T, 64>(on, a, units);
    if (dim == 128) return launchFastest<T, 128>(on, a, units);
    if (dim < 64) return launchPacked<T, 4, 64, true, 4>(on, a, units);
    if (dim < 128) return launchPacked<T, 3, 128, true, 4>(on, a, units);
    if (dim <= 256) return launchPacked<T, 4, 256, true, 2>(on, a, units);
    throw TensorError(format("Decode attention takes heads of up to 256 numbers, not %d.", dim));
  });
}

}  // namespace nanovllm::cuda

// decodePacked for a lone sequence on Hopper: the blocks that share a unit are a thread block cluster.
//
// With so few units every block has a tile or two, and the way a result takes through scratch memory (write,
// wait until it is visible, count, read back: four trips to the L2 cache) lasts longer than reading the keys
// and values did. The blocks of a cluster run at the same time, near each other, and can write into each
// other's shared memory: each leaves its part in the first one's, and a barrier of the cluster says when all
// have come.
//
// A cluster's blocks are all on one part of the GPU, so this pays only while there are more multiprocessors
// than work: long contexts and larger batches are better off with equal shares over the whole GPU
// (decode_shares.cuh).
#pragma once

#include <cooperative_groups.h>

#include "cuda/attention/decode_tiles.cuh"

namespace nanovllm::cuda {

/// Blocks in a cluster: the largest number that needs no special permission. And warps in a block, as many:
/// so the parts of the warps and the parts of the blocks have one layout.
constexpr int kCluster = 8;

/// Grid [B · units of a sequence · kCluster].
template <class T, int kDims>
__global__ void __launch_bounds__(kCluster* kWarp, 1) clusterKernel(const Decode<T> a) {
#if __CUDA_ARCH__ >= 900
  extern __shared__ uint4 memory[];
  auto* const parts = reinterpret_cast<States<kCluster, kDims>*>(memory);
  auto &warps = parts[0], &blocks = parts[1];  // `blocks` only in the first block
  const auto cluster = cooperative_groups::this_cluster();
  const int rank = static_cast<int>(cluster.block_rank());
  cluster.barrier_arrive();
  launchDependents();

  // The lengths and tables are a step's inputs, there before its first kernel.
  constexpr int kTileKeys = kCluster * kMmaKeys;
  const int passes = (a.group + kMmaHeads - 1) / kMmaHeads, units = a.kvHeads * passes;
  const int b = blockIdx.x / kCluster / units, unit = blockIdx.x / kCluster % units;
  const int length = a.lengths[b], tiles = (length + kTileKeys - 1) / kTileKeys;
  const int share = (tiles + kCluster - 1) / kCluster, first = min(rank * share, tiles);
  const Piece piece = {b, unit, length, first, min(first + share, tiles), 0};
  const int kv = unit / passes, skipped = unit % passes * kMmaHeads;
  const Heads heads = {kv, kv * a.group + skipped, min(a.group - skipped, kMmaHeads)};
  {
    WarpTiles<T, kCluster, kDims, false> work(a, piece, heads);
    work.startEarly();
    waitForPrevious();
    work.run();
    work.store(warps);
  }
  __syncthreads();

  cluster.barrier_wait();  // the first block has started: its shared memory is there to be written
  auto& target = *cluster.map_shared_rank(&blocks, 0);
  mergeStates(warps, kCluster, heads.count, kDims,
              [&](int head, int d, const float4& out, const float2& maxSum) {
                *reinterpret_cast<float4*>(&target.out[rank][head][d]) = out;
                if (d == 0) target.maxSum[rank][head] = maxSum;
              });
  cluster.barrier_arrive();
  if (rank > 0) return;
  cluster.barrier_wait();
  mergeStates(blocks, kCluster, heads.count, kDims,
              [&](int head, int d, const float4& out, const float2& maxSum) {
                writeOutput(a, b, heads.first + head, d, out, maxSum.y);
              });
#endif
}

template <class T, int kDims>
void launchCluster(const Launch& on, const DecodeArgs& a, int units) {
  auto* const kernel = clusterKernel<T, kDims>;
  const size_t shared = 2 * sizeof(States<kCluster, kDims>);
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared)),
        "decodePacked");
  cudaLaunchAttribute attributes[2] = {};
  attributes[0].id = cudaLaunchAttributeClusterDimension;
  attributes[0].val.clusterDim.x = kCluster;
  attributes[0].val.clusterDim.y = attributes[0].val.clusterDim.z = 1;
  attributes[1].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[1].val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = static_cast<unsigned>(units * kCluster);
  config.blockDim = kCluster * kWarp;
  config.dynamicSmemBytes = shared;
  config.stream = on.stream;
  config.attrs = attributes;
  config.numAttrs = on.programmatic ? 2 : 1;
  check(cudaLaunchKernelEx(&config, kernel, decodeFor<T>(a)), "decodePacked");
}

}  // namespace nanovllm::cuda

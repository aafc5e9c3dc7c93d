// Selection among many numbers by one block, without sorting them: "which token is the k-th likeliest", and
// "at which token, from the likeliest down, does the sum of probabilities reach p", are the same question
// with other weights.
//
// Tokens are ordered by one integer, their rank: the logit in order-preserving form above the complement of
// the id. Larger is likelier, ties go to lower ids, and no two tokens are equal, so nothing below has to
// think about ties.
//
// The search is a radix select, from the ranks' most significant byte down: a histogram of the weights by
// that byte tells in which of its 256 bins the sum reaches the goal; the next histogram looks at that bin
// alone. As soon as it holds few tokens, they are sorted in shared memory, and their running sum finds the
// very token.
#pragma once

#include <type_traits>

#include "cuda/sample.cuh"

namespace nanovllm::cuda {

constexpr int kChooseThreads = 512;
constexpr int kMaxCandidates = 4096;

__device__ __forceinline__ uint64_t rankFrom(uint32_t key, uint32_t id) {
  return static_cast<uint64_t>(key) << 32 | (id ^ 0xffffffffu);
}
/// 0, below every token, for NaN.
__device__ __forceinline__ uint64_t rankOf(float logit, uint32_t id) {
  return logit == logit ? rankFrom(orderKey(logit), id) : 0;
}
__device__ __forceinline__ float logitOf(uint64_t rank) {
  return fromOrderKey(static_cast<uint32_t>(rank >> 32));
}
__device__ __forceinline__ uint32_t idOf(uint64_t rank) { return ~static_cast<uint32_t>(rank); }

/// Tokens and weights by one byte of the rank. Neighbouring logits often fall into one bin, and atomics on
/// one address wait for each other: so there are 16 copies of the histogram, and a warp's lanes use different
/// ones. The odd stride puts a bin's copies into different banks.
struct Histogram {
  static constexpr int kBins = 256, kCopies = 16, kStride = kBins + 1;
  uint32_t count[kCopies * kStride];
  // Shared memory adds 32 bits in one instruction and 64 in a loop, hence two words and a carry.
  uint32_t low[kCopies * kStride], high[kCopies * kStride];

  template <bool kWeights>
  __device__ __forceinline__ void clear() {
    for (int i = threadIdx.x; i < kCopies * kStride; i += kChooseThreads) {
      count[i] = 0;
      if (kWeights) low[i] = high[i] = 0;
    }
  }

  __device__ __forceinline__ int at(int bin) const { return threadIdx.x % kCopies * kStride + bin; }
  __device__ __forceinline__ void add(int bin) { atomicAdd(&count[at(bin)], 1u); }
  __device__ __forceinline__ void add(int bin, uint64_t weight) {
    add(bin);
    const auto part = static_cast<uint32_t>(weight);
    const uint32_t before = atomicAdd(&low[at(bin)], part);
    const bool carry = before > 0xffffffffu - part;
    const uint32_t upper = static_cast<uint32_t>(weight >> 32) + carry;
    if (upper) atomicAdd(&high[at(bin)], upper);
  }

  __device__ __forceinline__ uint32_t countOf(int bin) const {
    uint32_t sum = 0;
    for (int copy = 0; copy < kCopies; copy++) sum += count[copy * kStride + bin];
    return sum;
  }
  __device__ __forceinline__ uint64_t weightOf(int bin) const {
    uint64_t sum = 0;
    for (int copy = 0; copy < kCopies; copy++) {
      sum += static_cast<uint64_t>(high[copy * kStride + bin]) << 32;
      sum += low[copy * kStride + bin];
    }
    return sum;
  }
};

/// The weight of a token that is only counted: the histogram's counts do.
struct One {
  __device__ uint64_t operator()(uint64_t) const { return 1; }
};

/// Where a running sum reaches its goal: among the `inside` items whose rank begins with `prefix` (rank >>
/// shift). Those of larger prefixes weigh `above`.
struct Edge {
  uint64_t prefix, above, goal;
  uint32_t inside;
  int shift;
};

struct ChooseMemory {
  Histogram histogram;
  uint64_t candidates[kMaxCandidates];
  uint64_t warpSums[kChooseThreads / kWarp];
  Edge edge;
  int found;
};

/// Inclusive prefix sum over the threads of the block, and the sum of all.
__device__ __forceinline__ uint64_t blockPrefixSum(ChooseMemory& memory, uint64_t x, uint64_t& total) {
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
#pragma unroll
  for (int distance = 1; distance < kWarp; distance *= 2) {
    const uint64_t before = __shfl_up_sync(kAllLanes, x, distance);
    if (lane >= distance) x += before;
  }
  if (lane == kWarp - 1) memory.warpSums[warp] = x;
  __syncthreads();
  total = 0;
  for (int w = 0; w < kChooseThreads / kWarp; w++) {
    if (w < warp) x += memory.warpSums[w];
    total += memory.warpSums[w];
  }
  __syncthreads();  // before the sums are overwritten
  return x;
}

/// Looks for the item at which the weights, summed from the largest rank down, reach goalOf(sum of all),
/// until at most `enough` items are left or their ranks agree down to bit `lastShift`. `forEach(visit)` calls
/// visit(rank) for the thread's share of the items. False if all together do not reach the goal.
template <class ForEach, class WeightOf, class GoalOf>
__device__ bool narrow(ChooseMemory& memory, const ForEach& forEach, const WeightOf& weightOf,
                       const GoalOf& goalOf, uint32_t enough, int lastShift, Edge& edge) {
  constexpr bool kWeights = !std::is_same<WeightOf, One>::value;
  Histogram& histogram = memory.histogram;
  edge = {0, 0, 0, 0, 64};
  do {
    const int shift = edge.shift - 8;
    histogram.clear<kWeights>();
    __syncthreads();
    forEach([&](uint64_t rank) {
      if (rank >> shift >> 8 != edge.prefix) return;
      const int bin = rank >> shift & 255;
      if constexpr (kWeights) {
        histogram.add(bin, weightOf(rank));
      } else {
        histogram.add(bin);
      }
    });
    __syncthreads();

    const int bin = Histogram::kBins - 1 - static_cast<int>(threadIdx.x);  // thread 0 has the largest
    const uint64_t mine = bin < 0 ? 0 : kWeights ? histogram.weightOf(bin) : histogram.countOf(bin);
    uint64_t total;
    const uint64_t sum = edge.above + blockPrefixSum(memory, mine, total);
    const uint64_t goal = shift == 56 ? goalOf(total) : edge.goal;
    if (goal > edge.above + total) return false;
    if (sum - mine < goal && goal <= sum) {
      memory.edge = {edge.prefix << 8 | static_cast<uint64_t>(bin), sum - mine, goal, histogram.countOf(bin),
                     shift};
    }
    __syncthreads();
    edge = memory.edge;
  } while (edge.inside > enough && edge.shift > lastShift);
  return true;
}

/// Starts an empty list of candidates; a barrier later they can be appended.
__device__ __forceinline__ void clearCandidates(ChooseMemory& memory) {
  if (threadIdx.x == 0) memory.found = 0;
}
/// Appends the ranks of those lanes that have `chosen`. Called by whole warps: one atomic for all of them.
/// False once the list is full; `found` then only says that there are too many.
__device__ __forceinline__ bool append(ChooseMemory& memory, uint64_t rank, bool chosen) {
  const unsigned lanes = __ballot_sync(kAllLanes, chosen);
  if (lanes == 0) return true;
  const int lane = threadIdx.x % kWarp;
  int first = 0;
  if (lane == 0) first = atomicAdd(&memory.found, __popc(lanes));
  first = __shfl_sync(kAllLanes, first, 0);
  const int at = first + __popc(lanes & ((1u << lane) - 1));
  if (chosen && at < kMaxCandidates) memory.candidates[at] = rank;
  return first <= kMaxCandidates;
}

/// Sorts the n appended candidates, the largest rank first (bitonic sort), whatever order they came in.
__device__ inline void sortCandidates(ChooseMemory& memory, int n) {
  uint64_t* const items = memory.candidates;
  int padded = kWarp;
  while (padded < n) padded *= 2;
  for (int i = n + threadIdx.x; i < padded; i += kChooseThreads) items[i] = 0;
  for (int run = 2; run <= padded; run *= 2) {
    for (int distance = run / 2; distance > 0; distance /= 2) {
      __syncthreads();
      for (int pair = threadIdx.x; pair < padded / 2; pair += kChooseThreads) {
        const int i = 2 * pair - (pair & (distance - 1)), j = i + distance;
        const uint64_t a = items[i], b = items[j];
        const bool descending = (i & run) == 0;
        if (descending ? a < b : a > b) items[i] = b, items[j] = a;
      }
    }
  }
  __syncthreads();
}

/// The first of n sorted candidates at which `above` plus their weights reaches the goal; n if none does.
template <class WeightOf>
__device__ int findCrossing(ChooseMemory& memory, int n, uint64_t above, uint64_t goal,
                            const WeightOf& weightOf) {
  for (int base = 0; base < n; base += kChooseThreads) {
    const int i = base + static_cast<int>(threadIdx.x);
    const uint64_t mine = i < n ? weightOf(memory.candidates[i]) : 0;
    uint64_t total;
    const uint64_t sum = above + blockPrefixSum(memory, mine, total);
    const bool crosses = sum - mine < goal && goal <= sum;
    if (crosses) memory.found = i;
    if (__syncthreads_or(crosses)) return memory.found;
    above += total;
  }
  return n;
}

}  // namespace nanovllm::cuda

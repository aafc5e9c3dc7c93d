// The filters of one row, by one block: a set of tokens, by min-p, then top-k, then top-p (nucleus sampling,
// Holtzman et al. 2020), and the race of those alone.
//
// The kept tokens are nearly always few, and the maxima of groups of 32 logits say where they are: the k-th
// largest group maximum is a lower bound of the k-th largest logit, since the k groups at and above it have k
// different tokens at and above it. So only the groups that reach this bound are read again, a few kilobytes
// of the row's 600. Their tokens above the bound are sorted in shared memory, and there the filters are
// prefixes. Where the kept tokens are too many for that (a flat distribution, a top-k of thousands), their
// end is found by radix select over the whole row (sample_select.cuh), and the race passes over it once more.
#pragma once

#include "cuda/sample_select.cuh"

namespace nanovllm::cuda {

/// With top-p alone, so many tokens are taken for candidates, and nearly always suffice.
constexpr uint32_t kNucleusCandidates = 1024;
/// Groups that may share the bound's bin: sorting so many candidates more costs about as much as another
/// histogram.
constexpr uint32_t kLooseness = 32;

/// One row's filters. All methods are called by the whole block.
struct Filter {
  ChooseMemory& memory;
  const float* logits;
  const float* groupMax;
  const ChunkResult* results;
  int vocabulary, groups, chunks, massBits;
  SampleRow row;
  float largest = 0;

  __device__ uint64_t mass(float logit) const {
    return massOf(logit, largest, row.inverseTemperature, massBits);
  }
  __device__ float score(float logit) const { return (logit - largest) * row.inverseTemperature; }
  /// The mass at which top-p is reached, of the tokens' total mass. At least 1: the set is never empty.
  __device__ uint64_t nucleus(uint64_t total) const {
    return max(uint64_t{1},
               static_cast<uint64_t>(ceil(static_cast<double>(row.topP) * static_cast<double>(total))));
  }
  __device__ Race race() const { return {row.key, row.position, kLeastNoise}; }

  __device__ Best draw() {
    findLargest();
    const uint64_t floor = minPFloor();
    const int n = collectCandidates(floor);
    if (n <= kMaxCandidates) {
      sortCandidates(memory, n);
      const int kept = keptCandidates(n);
      if (kept > 0) return raceCandidates(kept);
    }
    return raceFrom(keptFloor(floor));
  }

  __device__ void findLargest() {
    float x = -INFINITY;
    for (int g = threadIdx.x; g < groups; g += kChooseThreads) x = fmaxf(x, groupMax[g]);
    largest = finitePivot(blockMax<kChooseThreads>(x));
  }

  /// The rank from which min-p keeps: exp((logit - largest) / temperature) >= minP, solved for the logit. In
  /// double precision the exponential rounds to minP from 2^-54 below on; with a huge temperature that is
  /// many tokens.
  __device__ uint64_t minPFloor() const {
    float lowest = -FLT_MAX;  // what has no probability is never kept
    if (row.minP > 0) {
      const double distance =
          static_cast<double>(row.temperature) * (log(static_cast<double>(row.minP)) - 0x1p-54);
      lowest = fmaxf(lowest, __double2float_ru(static_cast<double>(largest) + distance));
    }
    return static_cast<uint64_t>(orderKey(lowest)) << 32;
  }

  /// Collects all tokens from some rank on, of those from `floor` on: all, or at least the topK likeliest, or
  /// what will probably do for top-p. Returns how many there are; they are in memory if that is at most
  /// kMaxCandidates.
  __device__ int collectCandidates(uint64_t floor) {
    uint32_t atLeast = row.topK;
    if (row.topPAlone()) {
      atLeast = kNucleusCandidates;
      // All tokens below this together have less than 1 - topP of the likeliest token's mass.
      const float tail = largest + row.temperature * logf((1 - row.topP) / vocabulary);
      floor = max(floor, rankFrom(orderKey(fmaxf(tail, -FLT_MAX)), kNoToken));
    }
    clearCandidates(memory);
    if (atLeast > 0) {
      const auto eachGroup = [&](const auto& visit) {
        for (int g = threadIdx.x; g < groups; g += kChooseThreads) {
          visit(rankFrom(orderKey(groupMax[g]), kNoToken));
        }
      };
      const auto goal = [&](uint64_t) { return uint64_t{atLeast}; };
      Edge edge;
      if (narrow(memory, eachGroup, One{}, goal, max(kLooseness, atLeast / 2), 32, edge)) {
        floor = max(floor, edge.prefix << edge.shift);
      }
    }
    __syncthreads();
    readGroups(floor);
    __syncthreads();
    return memory.found;
  }

  /// Appends the tokens from rank `floor` on. A warp looks at the maxima of 32 groups, one a lane, and reads
  /// those that reach the floor together: eight lanes a group, four groups at once. It stops when there are
  /// too many.
  __device__ void readGroups(uint64_t floor) {
    const bool aligned = isAligned(logits);
    const int lane = threadIdx.x % kWarp;
    for (int base = threadIdx.x - lane; base < groups; base += kChooseThreads) {
      const int g = base + lane;
      unsigned reached = __ballot_sync(kAllLanes, g < groups && rankFrom(orderKey(groupMax[g]), 0) >= floor);
      while (reached) {
        // The lane's group is number lane / 8 of those left.
        unsigned left = reached;
        for (int i = 0; i < lane / 8; i++) left &= left - 1;
        const int id = (base + __ffs(left) - 1) * kGroup + lane % 8 * 4;
        const float4 four =
            left ? loadFour(logits, id, vocabulary, aligned) : make_float4(NAN, NAN, NAN, NAN);
        const float x[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
        for (int j = 0; j < 4; j++) {
          const uint64_t rank = rankOf(x[j], id + j);
          if (!append(memory, rank, rank >= floor)) return;
        }
        for (int i = 0; i < 4; i++) reached &= reached - 1;
      }
    }
  }

  /// How many of the n sorted candidates all filters keep; 0 if that cannot be told, because the nucleus
  /// reaches beyond them.
  __device__ int keptCandidates(int n) {
    if (row.topK > 0) n = min(n, row.topK);
    if (row.topP >= 1) return n;
    const auto weightOf = [&](uint64_t rank) { return mass(logitOf(rank)); };
    const int crossing =
        findCrossing(memory, n, 0, nucleus(row.topPAlone() ? vocabularyMass() : massOfFirst(n)), weightOf);
    return crossing < n ? crossing + 1 : 0;
  }

  __device__ uint64_t massOfFirst(int n) {
    uint64_t mine = 0, total;
    for (int i = threadIdx.x; i < n; i += kChooseThreads) mine += mass(logitOf(memory.candidates[i]));
    blockPrefixSum(memory, mine, total);
    return total;
  }

  /// The chunks' masses, brought from their pivots to the row's.
  __device__ uint64_t vocabularyMass() {
    uint64_t mine = 0, total;
    for (int c = threadIdx.x; c < chunks; c += kChooseThreads) {
      const double scale = expf((results[c].pivot - largest) * row.inverseTemperature);
      mine += static_cast<uint64_t>(static_cast<double>(results[c].mass) * scale);
    }
    blockPrefixSum(memory, mine, total);
    return total;
  }

  __device__ Best raceCandidates(int kept) const {
    Best best;
    for (int i = threadIdx.x; i < kept; i += kChooseThreads) {
      const uint64_t rank = memory.candidates[i];
      const uint32_t id = idOf(rank);
      const uint4 words = philoxWords(row.key, row.position, id / 4);
      const float s = score(logitOf(rank)) + gumbelNoise(wordAt(words, id));
      if (s > best.score || (s == best.score && id < best.id)) best = {s, id};
    }
    return blockBest<kChooseThreads>(best);
  }

  // --- passes over the whole row --------------------------------------------------------------------------

  /// Calls visit(id, logits id … id + 3) for all of the row, whole warps at a time.
  template <class Visit>
  __device__ __forceinline__ void eachFour(const Visit& visit) const {
    constexpr int kInFlight = 4, kStep = 4 * kChooseThreads;
    const bool aligned = isAligned(logits);
    for (int base = 0; base < vocabulary; base += kInFlight * kStep) {
      float4 x[kInFlight];
      const int first = base + 4 * static_cast<int>(threadIdx.x);
#pragma unroll
      for (int i = 0; i < kInFlight; i++) x[i] = loadFour(logits, first + i * kStep, vocabulary, aligned);
#pragma unroll
      for (int i = 0; i < kInFlight; i++) {
        const float four[4] = {x[i].x, x[i].y, x[i].z, x[i].w};
        visit(first + i * kStep, four);
      }
    }
  }

  /// The rank of the token at which the weights of all tokens from `floor` on reach the goal; `floor` if they
  /// never do.
  template <class WeightOf, class GoalOf>
  __device__ uint64_t crossingRank(uint64_t floor, const WeightOf& weightOf, const GoalOf& goalOf) {
    const auto eachRank = [&](const auto& visit) {
      eachFour([&](int id, const float (&x)[4]) {
#pragma unroll
        for (int j = 0; j < 4; j++) {
          const uint64_t rank = rankOf(x[j], id + j);
          if (rank >= floor) visit(rank);
        }
      });
    };
    Edge edge;
    if (!narrow(memory, eachRank, weightOf, goalOf, kMaxCandidates, 0, edge)) return floor;
    clearCandidates(memory);
    __syncthreads();
    eachFour([&](int id, const float (&x)[4]) {
#pragma unroll
      for (int j = 0; j < 4; j++) {
        const uint64_t rank = rankOf(x[j], id + j);
        append(memory, rank, rank >= floor && rank >> edge.shift == edge.prefix);
      }
    });
    __syncthreads();
    const int n = memory.found;
    sortCandidates(memory, n);
    const uint64_t rank = memory.candidates[findCrossing(memory, n, edge.above, edge.goal, weightOf)];
    __syncthreads();  // before the candidates are overwritten
    return rank;
  }

  /// The rank from which all filters keep.
  __device__ uint64_t keptFloor(uint64_t floor) {
    if (row.topK > 0) {
      floor = crossingRank(floor, One{}, [&](uint64_t) { return static_cast<uint64_t>(row.topK); });
    }
    if (row.topP < 1) {
      floor = crossingRank(
          floor, [&](uint64_t rank) { return mass(logitOf(rank)); },
          [&](uint64_t total) { return nucleus(total); });
    }
    return floor;
  }

  __device__ Best raceFrom(uint64_t floor) const {
    Race race = this->race();
    eachFour([&](int id, const float (&x)[4]) {
      float s[4];
#pragma unroll
      for (int j = 0; j < 4; j++) s[j] = rankOf(x[j], id + j) >= floor ? score(x[j]) : -INFINITY;
      race.enter(s, id);
    });
    return blockBest<kChooseThreads>(race.best);
  }
};

}  // namespace nanovllm::cuda

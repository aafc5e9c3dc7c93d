// Flash attention (Dao et al. 2022): softmax(Q Kᵀ) V without ever storing a row of scores.
//
// Keys are taken in tiles. For each query we keep the largest score so far (m), the sum of e^(score - m)
// (l) and the unnormalised output (o); a tile with a larger maximum rescales l and o by e^(m_old - m_new).
//
// Queries lie in the lanes of a vector. With one query a lane, maximum, sum and rescaling are plain
// vertical operations, no value ever crosses lanes, and the whole arithmetic is two small matrix
// products that broadcast an element of K or V:   Sᵀ[key][query],  Oᵀ[dim][query].
// The query heads that share a key head (GQA) fill lanes together, so each key is loaded once for all.
//
// Tiles and segments begin at fixed positions of the sequence. A masked key has weight e^-∞ = 0, and
// adding zero or multiplying by e⁰ = 1 changes nothing: so a query's result does not depend on what
// else is in its task, nor on the chunk or the blocks its keys came in.
#pragma once

#include <cmath>

#include "cpu/kernels.h"
#include "cpu/kernels/exp.h"
#include "cpu/kernels/transpose.h"

namespace nanovllm {
namespace NANO_ISA {

/// Keys in a tile: K and V of one tile stay in the first-level cache while queries pass over them.
constexpr int64_t kTileKeys = 32;
/// Keys in a segment. Segments are computed apart and merged in order, always; so when there are fewer
/// sequences than threads, they can be computed by different threads (split-KV).
constexpr int64_t kSegmentKeys = 256;
/// Queries in a vector, and vectors of queries in a task: what a loaded tile is used for.
constexpr int kLanes = W;
constexpr int kGroups = 4;
constexpr int kTaskRows = kLanes * kGroups;

/// Head sizes are padded to this in scratch memory.
inline int64_t paddedDim(int64_t dim) { return (dim + 31) / 32 * 32; }

/// Where W queries stand after some keys: m, l and oᵀ, as vectors over the queries.
struct SoftmaxState {
  float* data;
  int64_t dim;  // padded

  static int64_t floats(int64_t dim) { return (2 + dim) * kLanes; }
  float* max() const { return data; }
  float* sum() const { return data + kLanes; }
  float* out() const { return data + 2 * kLanes; }

  void reset() const {
    store(max(), broadcast(-INFINITY));
    for (int64_t i = 1; i < 2 + dim; i++) store(data + i * kLanes, Vec{});
  }

  /// Appends the keys that `next` has seen. One that has seen none (m = -∞) changes nothing.
  void merge(const SoftmaxState& next) const {
    const Vec m = nanovllm::NANO_ISA::max(load(max()), load(next.max()));
    const Vec base = finiteBase(m);
    const Vec a = exp(load(max()) - base), b = exp(load(next.max()) - base);
    store(max(), m);
    for (int64_t i = 1; i < 2 + dim; i++) {
      store(data + i * kLanes, load(data + i * kLanes) * a + load(next.data + i * kLanes) * b);
    }
  }

  /// What to subtract from scores: the maximum, but 0 where nothing was seen, since ∞ - ∞ is no number.
  NANO_INLINE static Vec finiteBase(Vec m) { return m == -INFINITY ? Vec{} : m; }
};

/// One (sequence, key head, up to kTaskRows query rows). Row r of a sequence is head r % G of query r / G,
/// where G query heads share the key head.
struct FlashRows {
  const AttnBatch& a;
  int b;
  int64_t kvHead, firstRow, rows;

  int64_t sharing() const { return a.heads() / a.kvHeads(); }
  int64_t query(int64_t row) const { return (firstRow + row) / sharing(); }
  int64_t head(int64_t row) const { return kvHead * sharing() + (firstRow + row) % sharing(); }
  int64_t visible(int64_t row) const { return a.visibleKeys(b, query(row)); }
  /// Keys that any row sees: later rows never see fewer.
  int64_t keys() const { return rows > 0 ? visible(rows - 1) : 0; }
  int64_t segments() const { return (keys() + kSegmentKeys - 1) / kSegmentKeys; }
  float* at(const TensorView& x, int64_t row) const {
    return x.f32() + (a.firstQuery(b) + query(row)) * x.stride[0] + head(row) * x.stride[1];
  }
};

/// The algorithm; how a tile is stored and multiplied is `Tiles`' affair (flash_tiles.h, flash_tiles_amx.h).
template <class Tiles>
class FlashTask {
 public:
  static int64_t scratchBytes(int64_t dim) {
    return Tiles::bytes(dim) + (kTileKeys + 1) * kLanes * sizeof(float) * kGroups;
  }

  FlashTask(const FlashRows& rows, char* scratch)
      : rows_(rows), dim_(paddedDim(rows.a.headDim())), tiles_(rows.a.headDim(), scratch) {
    scores_ = reinterpret_cast<float*>(scratch + Tiles::bytes(rows.a.headDim()));
    visible_ = reinterpret_cast<int32_t*>(scores_ + kTileKeys * kLanes);
    for (int64_t g = 0; g < groups(); g++) {
      const float* queries[kLanes];
      for (int64_t lane = 0; lane < kLanes; lane++) {
        const int64_t row = g * kLanes + lane;
        const bool exists = row < rows.rows;
        visible_[row] = exists ? static_cast<int32_t>(rows.visible(row)) : 0;
        queries[lane] = exists ? rows.at(rows.a.q, row) : nullptr;
      }
      tiles_.setQueries(g, queries);
    }
  }

  int64_t groups() const { return (rows_.rows + kLanes - 1) / kLanes; }

  /// Attends to the keys of one segment, from scratch. `states` has one entry a group.
  void segment(int64_t index, const SoftmaxState* states) {
    for (int64_t g = 0; g < groups(); g++) states[g].reset();
    const int64_t begin = index * kSegmentKeys;
    const int64_t end = begin + kSegmentKeys < rows_.keys() ? begin + kSegmentKeys : rows_.keys();
    for (int64_t tile = begin; tile < end; tile += kTileKeys) {
      // A whole tile whenever the sequence has one, even if these rows see only part of it.
      const int64_t left = rows_.a.keys(rows_.b) - tile;
      tiles_.loadKeys(rows_.a, rows_.b, rows_.kvHead, tile, left < kTileKeys ? left : kTileKeys);
      for (int64_t g = 0; g < groups(); g++) {
        const int64_t lastLane = (g + 1) * kLanes < rows_.rows ? (g + 1) * kLanes - 1 : rows_.rows - 1;
        if (visible_[lastLane] > tile) step(g, tile, states[g]);
      }
    }
  }

  /// Writes o / l; zeros for a query that saw no key.
  void finish(const SoftmaxState* states) const {
    for (int64_t g = 0; g < groups(); g++) {
      const Vec sum = load(states[g].sum()), inverse = sum == 0.0f ? Vec{} : 1.0f / sum;
      const int64_t lanes = rows_.rows - g * kLanes < kLanes ? rows_.rows - g * kLanes : kLanes;
      forEachVec(rows_.a.headDim(), [&](int64_t d, auto n) {
        Vec block[W];
        for (int i = 0; i < W; i++) block[i] = load(states[g].out() + (d + i) * kLanes) * inverse;
        transpose(block);
        for (int64_t lane = 0; lane < lanes; lane++)
          storeN(rows_.at(rows_.a.out, g * kLanes + lane) + d, block[lane], n);
      });
    }
  }

 private:
  /// One tile of keys for one vector of queries.
  void step(int64_t g, int64_t tile, const SoftmaxState& state) {
    tiles_.multiplyKeys(g, scores_);
    const VecI visible = loadBits<VecI>(visible_ + g * kLanes) - static_cast<int32_t>(tile);
    const Vec before = load(state.max());
    Vec m = before;
    for (int32_t j = 0; j < kTileKeys; j++) {
      const Vec s = visible > j ? load(scores_ + j * kLanes) * rows_.a.scale : broadcast(-INFINITY);
      m = max(m, s);
      store(scores_ + j * kLanes, s);
    }
    const Vec base = SoftmaxState::finiteBase(m), decay = exp(before - base);
    Vec sums[4] = {};
    for (int64_t j = 0; j < kTileKeys; j += 4) {
      for (int i = 0; i < 4; i++) {
        const Vec p = exp(load(scores_ + (j + i) * kLanes) - base);
        sums[i] = sums[i] + p;
        store(scores_ + (j + i) * kLanes, p);
      }
    }
    store(state.max(), m);
    store(state.sum(), load(state.sum()) * decay + ((sums[0] + sums[1]) + (sums[2] + sums[3])));
    tiles_.addValues(scores_, decay, state.out());
  }

  const FlashRows rows_;
  int64_t dim_;
  Tiles tiles_;
  float* scores_;     // [kTileKeys][kLanes]
  int32_t* visible_;  // [kGroups * kLanes]: keys each query sees
};

}  // namespace NANO_ISA
}  // namespace nanovllm

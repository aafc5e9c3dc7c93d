// Flash attention for a few queries a sequence: decoding, where reading the cache is the work.
//
// The same arithmetic as flash_task.h, every addition in the same order, so that a token's bits do not
// depend on whether it was decoded or prefilled. What differs is what lies in the lanes: there is at most
// a handful of queries, so here the lanes hold keys (for scores) and dims (for outputs). And a task takes
// several key heads at once, because they lie side by side in the cache: memory is read in long runs.
#pragma once

#include "cpu/kernels/flash_task.h"
#include "cpu/kernels/rows.h"

namespace nanovllm {
namespace NANO_ISA {

/// Query rows of a (sequence, key head) up to which this file is used: beyond, lanes of queries fill.
constexpr int kFewRows = W / 2;

/// The rows of one tile of keys, as the cache holds them: entry j is where the first of a
/// task's heads starts.
struct TileRows {
  const char *k[kTileKeys], *v[kTileKeys];
  int64_t count;  // of kTileKeys; the sequence has no more
};

/// Where one query row stands after some keys: m, l, o.
struct RowState {
  float* data;
  static constexpr int64_t kHeader = 16;  // m and l, and then nothing up to a cache line's end

  static int64_t floats(int64_t dim) { return kHeader + dim; }
  float& max() const { return data[0]; }
  float& sum() const { return data[1]; }
  float* out() const { return data + kHeader; }
  void reset(int64_t dim) const {
    memset(data, 0, floats(dim) * sizeof(float));
    max() = -INFINITY;
  }

  /// SoftmaxState::merge, one row.
  void merge(const RowState& next, int64_t dim) const {
    const Vec mine = broadcast(max()), other = broadcast(next.max());
    const Vec m = nanovllm::NANO_ISA::max(mine, other), base = SoftmaxState::finiteBase(m);
    const Vec a = exp(mine - base), b = exp(other - base);
    max() = m[0];
    sum() = sum() * a[0] + next.sum() * b[0];
    for (int64_t d = 0; d < dim; d += W) store(out() + d, load(out() + d) * a + load(next.out() + d) * b);
  }
};

/// The rows of one sequence that share key heads [firstHead, firstHead + heads), over one segment of keys.
template <class Tiles>
class DecodeTask {
 public:
  DecodeTask(const AttnBatch& a, int b, int64_t firstHead, int64_t heads, char* scratch)
      : a_(a),
        b_(b),
        firstHead_(firstHead),
        heads_(heads),
        sharing_(a.heads() / a.kvHeads()),
        rows_(a.queries(b) * sharing_),
        dim_(paddedDim(a.headDim())),
        scores_(reinterpret_cast<float*>(scratch)),
        tiles_(a, rows_, scratch + scoreBytes(heads)) {}

  static int64_t scratchBytes(const AttnBatch& a, int64_t heads) {
    return scoreBytes(heads) + Tiles::bytes(a.headDim(), heads);
  }

  /// `states`: [heads][rows], one after the other.
  void segment(int64_t index, float* states) {
    for (int64_t i = 0; i < heads_ * rows_; i++) state(states, i).reset(dim_);
    const int64_t all = a_.keys(b_), begin = index * kSegmentKeys;
    const int64_t end = begin + kSegmentKeys < all ? begin + kSegmentKeys : all;
    TileRows now, next;
    find(begin, now);
    prefetch(now, 0, kTileKeys);
    for (int64_t h = 0; h < heads_; h++) {
      for (int64_t r = 0; r < rows_; r++) tiles_.setQuery(h, r, at(a_.q, h, r));
    }
    for (int64_t tile = begin; tile < end; tile += kTileKeys) {
      const bool last = tile + kTileKeys >= end;
      if (!last) find(tile + kTileKeys, next);
      for (int64_t h = 0; h < heads_; h++) {
        if (!last) prefetch(next, h * kTileKeys / heads_, (h + 1) * kTileKeys / heads_);
        tiles_.multiplyKeys(now, a_.k, h, headScores(h));
      }
      for (int64_t h = 0; h < heads_; h++) {
        float decay[kFewRows];
        for (int64_t r = 0; r < rows_; r++) {
          const int64_t visible = a_.visibleKeys(b_, r / sharing_) - tile;
          decay[r] = weigh(headScores(h) + r * kTileKeys, visible, state(states, h * rows_ + r));
        }
        tiles_.addValues(now, a_.v, h, headScores(h), decay, state(states, h * rows_).out(),
                         RowState::floats(dim_));
      }
      now = next;
    }
  }

  /// Writes o / l; zeros for a query that saw no key.
  static void finish(const AttnBatch& a, int b, int64_t head, int64_t row, const RowState& state) {
    const int64_t sharing = a.heads() / a.kvHeads();
    const Vec sum = broadcast(state.sum()), inverse = sum == 0.0f ? Vec{} : 1.0f / sum;
    float* const to = rowAt(a, b, a.out, head * sharing + row % sharing, row / sharing);
    forEachVec(a.headDim(), [&](int64_t d, auto n) { storeN(to + d, load(state.out() + d) * inverse, n); });
  }

 private:
  static int64_t scoreBytes(int64_t heads) { return heads * kFewRows * kTileKeys * sizeof(float); }
  static float* rowAt(const AttnBatch& a, int b, const TensorView& x, int64_t head, int64_t query) {
    return x.f32() + (a.firstQuery(b) + query) * x.stride[0] + head * x.stride[1];
  }
  float* at(const TensorView& x, int64_t h, int64_t row) const {
    return rowAt(a_, b_, x, (firstHead_ + h) * sharing_ + row % sharing_, row / sharing_);
  }
  RowState state(float* states, int64_t i) const { return {states + i * RowState::floats(dim_)}; }
  float* headScores(int64_t h) const { return scores_ + h * kFewRows * kTileKeys; }

  void find(int64_t first, TileRows& rows) const {
    const int64_t left = a_.keys(b_) - first, size = bytesOf(a_.k.dtype);
    rows.count = left < kTileKeys ? left : kTileKeys;
    a_.forEachKey(b_, firstHead_, first, rows.count, [&](int64_t j, int64_t kOffset, int64_t vOffset) {
      rows.k[j] = a_.k.data + kOffset * size;
      rows.v[j] = a_.v.data + vOffset * size;
    });
  }

  /// Asks for keys from … to - 1 of a tile, in the order they lie in memory.
  void prefetch(const TileRows& rows, int64_t from, int64_t to) const {
    if (to > rows.count) to = rows.count;
    const auto fetch = [&](const char* row, const TensorView& x) {
      const int64_t span =
          ((heads_ - 1) * x.stride[x.rank - 2] + a_.headDim()) * static_cast<int64_t>(bytesOf(x.dtype));
      for (int64_t i = 0; i < span; i += 64) __builtin_prefetch(row + i, 0, 2);
    };
    for (int64_t j = from; j < to; j++) fetch(rows.k[j], a_.k);
    for (int64_t j = from; j < to; j++) fetch(rows.v[j], a_.v);
  }

  /// Scores to softmax weights e^(score - m), in place. Returns what to multiply earlier outputs with.
  float weigh(float* scores, int64_t visible, const RowState& state) const {
    int32_t keys[W];
    for (int i = 0; i < W; i++) keys[i] = i;
    const VecI key = loadBits<VecI>(keys);
    Vec best = broadcast(-INFINITY);
    for (int32_t j = 0; j < kTileKeys; j += W) {
      const Vec s =
          key + j < static_cast<int32_t>(visible) ? load(scores + j) * a_.scale : broadcast(-INFINITY);
      best = max(best, s);
      store(scores + j, s);
    }
    const float before = state.max(), top = maxLane(best), m = before > top ? before : top;
    const Vec base = SoftmaxState::finiteBase(broadcast(m));
    const float decay = before == m && m != -INFINITY ? 1.0f : exp(broadcast(before) - base)[0];
    for (int64_t j = 0; j < kTileKeys; j += W) store(scores + j, exp(load(scores + j) - base));
    typedef float Four __attribute__((vector_size(16)));
    Four sums{};
    for (int64_t j = 0; j < kTileKeys; j += 4) sums = sums + loadBits<Four>(scores + j);
    state.max() = m;
    state.sum() = state.sum() * decay + ((sums[0] + sums[1]) + (sums[2] + sums[3]));
    return decay;
  }

  const AttnBatch& a_;
  int b_;
  int64_t firstHead_, heads_, sharing_, rows_, dim_;
  float* scores_;  // [heads][kFewRows][kTileKeys]
  Tiles tiles_;
};

/// Cuts a batch into tasks of (sequence, some key heads, segment), and merges the segments in order.
template <class Tiles>
class FlashDecode {
 public:
  FlashDecode(Context& ctx, const AttnBatch& a) : ctx_(ctx), a_(a), heads_(a.kvHeads()) {
    for (int b = 0; b < a.sequences; b++) {
      const int64_t segments = segmentsOf(b), rows = a.queries(b) * (a.heads() / a.kvHeads());
      segments_ = segments_ > segments ? segments_ : segments;
      rows_ = rows_ > rows ? rows_ : rows;
    }
    // As many heads together as leave every thread a few tasks.
    const auto tasks = [&] { return a.sequences * segments_ * (a.kvHeads() / heads_); };
    while (heads_ % 2 == 0 && tasks() < 4 * ctx.pool.threads()) heads_ /= 2;
  }

  static bool suits(const AttnBatch& a) {
    for (int b = 0; b < a.sequences; b++) {
      if (a.queries(b) * (a.heads() / a.kvHeads()) > kFewRows) return false;
    }
    return true;
  }

  void run() {
    const int64_t groups = a_.kvHeads() / heads_, dim = paddedDim(a_.headDim());
    const int64_t headFloats = rows_ * RowState::floats(dim);
    const int64_t perThread = (DecodeTask<Tiles>::scratchBytes(a_, heads_) + 63) / 64 * 64;
    char* const scratch = ctx_.scratch.reserve(perThread * ctx_.pool.threads() +
                                               a_.sequences * segments_ * a_.kvHeads() * headFloats * 4);
    float* const states = reinterpret_cast<float*>(scratch + perThread * ctx_.pool.threads());
    const auto statesOf = [&](int64_t b, int64_t segment, int64_t head) {
      return states + ((b * segments_ + segment) * a_.kvHeads() + head) * headFloats;
    };
    ctx_.pool.run(static_cast<int>(a_.sequences * segments_ * groups), [&](int task, int slot) {
      const int64_t head = task % groups * heads_, segment = task / groups % segments_;
      const int b = static_cast<int>(task / groups / segments_);
      if (segment >= segmentsOf(b)) return;
      // A sequence with fewer rows than the longest leaves a gap behind each group of heads.
      DecodeTask<Tiles>(a_, b, head, heads_, scratch + slot * perThread)
          .segment(segment, statesOf(b, segment, head));
    });
    forEachRow(ctx_, a_.sequences * a_.kvHeads(), segments_ * headFloats, [&](int64_t i) {
      const int b = static_cast<int>(i / a_.kvHeads());
      const int64_t head = i % a_.kvHeads(), first = head / heads_ * heads_;
      const int64_t rows = a_.queries(b) * (a_.heads() / a_.kvHeads());
      for (int64_t r = 0; r < rows; r++) {
        const int64_t offset = ((head - first) * rows + r) * RowState::floats(dim);
        const RowState total{statesOf(b, 0, first) + offset};
        if (segmentsOf(b) == 0) total.reset(dim);
        for (int64_t s = 1; s < segmentsOf(b); s++) total.merge({statesOf(b, s, first) + offset}, dim);
        DecodeTask<Tiles>::finish(a_, b, head, r, total);
      }
    });
  }

 private:
  int64_t segmentsOf(int b) const { return (a_.keys(b) + kSegmentKeys - 1) / kSegmentKeys; }

  Context& ctx_;
  const AttnBatch& a_;
  int64_t heads_, segments_ = 1, rows_ = 1;
};

}  // namespace NANO_ISA
}  // namespace nanovllm

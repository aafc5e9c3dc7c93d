// Flash attention over a batch: cuts it into tasks and lets FlashTask do each. Prefill and decode, contiguous
// and paged keys are the same code; a decoding sequence is one with a single query.
#include "cpu/kernels/flash_decode.h"
#include "cpu/kernels/flash_decode_amx.h"
#include "cpu/kernels/flash_decode_tiles.h"
#include "cpu/kernels/flash_task.h"
#include "cpu/kernels/flash_tiles.h"
#include "cpu/kernels/flash_tiles_amx.h"
#include "cpu/kernels/ops.h"

namespace nanovllm {
namespace NANO_ISA {
namespace {

template <class Tiles>
class Flash {
 public:
  Flash(Context& ctx, const AttnBatch& a) : ctx_(ctx), a_(a), dim_(paddedDim(a.headDim())) {
    for (int b = 0; b < a.sequences; b++) {
      const int64_t rows = a.queries(b) * sharing();
      chunksPerHead_ = chunksPerHead_ > chunksOf(rows) ? chunksPerHead_ : chunksOf(rows);
      const int64_t segments = (a.keys(b) + kSegmentKeys - 1) / kSegmentKeys;
      maxSegments_ = maxSegments_ > segments ? maxSegments_ : segments;
    }
    tasks_ = a.sequences * a.kvHeads() * chunksPerHead_;
  }

  void run() {
    // Few tasks and long contexts: segments are the unit of work. Otherwise whole tasks are.
    tasks_ < 4 * ctx_.pool.threads() && maxSegments_ > 1 ? runSplit() : runWhole();
  }

 private:
  int64_t sharing() const { return a_.heads() / a_.kvHeads(); }
  static int64_t chunksOf(int64_t rows) { return (rows + kTaskRows - 1) / kTaskRows; }

  /// Task number to rows. The last rows of a causal sequence see the most keys, so they go first: the
  /// threads then end at nearly the same time.
  FlashRows rowsOf(int64_t task) const {
    const int64_t chunk = chunksPerHead_ - 1 - task % chunksPerHead_;
    const int b = static_cast<int>(task / chunksPerHead_ / a_.kvHeads());
    const int64_t first = chunk * kTaskRows, all = a_.queries(b) * sharing();
    const int64_t rows = all - first < kTaskRows ? all - first : kTaskRows;
    return {a_, b, task / chunksPerHead_ % a_.kvHeads(), first, rows > 0 ? rows : 0};
  }

  void statesAt(SoftmaxState* states, float* memory) const {
    for (int g = 0; g < kGroups; g++) states[g] = {memory + g * SoftmaxState::floats(dim_), dim_};
  }
  int64_t stateBytes() const { return kGroups * SoftmaxState::floats(dim_) * sizeof(float); }
  int64_t taskBytes() const { return (FlashTask<Tiles>::scratchBytes(a_.headDim()) + 63) / 64 * 64; }

  void runWhole() {
    const int64_t perThread = taskBytes() + 2 * stateBytes();
    char* const scratch = ctx_.scratch.reserve(perThread * ctx_.pool.threads());
    ctx_.pool.run(static_cast<int>(tasks_), [&](int index, int slot) {
      const FlashRows rows = rowsOf(index);
      if (rows.rows == 0) return;
      char* const mine = scratch + slot * perThread;
      FlashTask<Tiles> task(rows, mine);
      SoftmaxState total[kGroups], next[kGroups];
      statesAt(total, reinterpret_cast<float*>(mine + taskBytes()));
      statesAt(next, reinterpret_cast<float*>(mine + taskBytes() + stateBytes()));
      task.segment(0, total);
      for (int64_t s = 1; s < rows.segments(); s++) {
        task.segment(s, next);
        for (int64_t g = 0; g < task.groups(); g++) total[g].merge(next[g]);
      }
      task.finish(total);
    });
  }

  void runSplit() {
    const int64_t partials = tasks_ * maxSegments_ * stateBytes();
    char* const scratch = ctx_.scratch.reserve(partials + taskBytes() * ctx_.pool.threads());
    const auto partial = [&](SoftmaxState* states, int64_t task, int64_t segment) {
      statesAt(states, reinterpret_cast<float*>(scratch + (task * maxSegments_ + segment) * stateBytes()));
    };
    ctx_.pool.run(static_cast<int>(tasks_ * maxSegments_), [&](int index, int slot) {
      const int64_t number = index / maxSegments_, segment = index % maxSegments_;
      const FlashRows rows = rowsOf(number);
      if (rows.rows == 0 || (segment > 0 && segment >= rows.segments())) return;
      FlashTask<Tiles> task(rows, scratch + partials + slot * taskBytes());
      SoftmaxState states[kGroups];
      partial(states, number, segment);
      task.segment(segment, states);
    });
    ctx_.pool.run(static_cast<int>(tasks_), [&](int number, int slot) {
      const FlashRows rows = rowsOf(number);
      if (rows.rows == 0) return;
      const FlashTask<Tiles> task(rows, scratch + partials + slot * taskBytes());
      SoftmaxState total[kGroups], next[kGroups];
      partial(total, number, 0);
      for (int64_t s = 1; s < rows.segments(); s++) {
        partial(next, number, s);
        for (int64_t g = 0; g < task.groups(); g++) total[g].merge(next[g]);
      }
      task.finish(total);
    });
  }

  Context& ctx_;
  const AttnBatch& a_;
  int64_t dim_, chunksPerHead_ = 1, maxSegments_ = 1, tasks_ = 0;
};

}  // namespace

void flashAttention(Context& ctx, const AttnBatch& a) {
  const int64_t dim = a.headDim();
  const bool decode = FlashDecode<DecodeTiles>::suits(a);
#if defined(__AMX_BF16__)
  if (a.k.dtype == DType::kBFloat16 && decode) return FlashDecode<DecodeTilesAmx>(ctx, a).run();
  if (a.k.dtype == DType::kBFloat16) return Flash<FlashTilesAmx>(ctx, a).run();
#endif
  if (decode) return FlashDecode<DecodeTiles>(ctx, a).run();
  if (dim <= 64) return Flash<FlashTiles<64>>(ctx, a).run();
  if (dim <= 128) return Flash<FlashTiles<128>>(ctx, a).run();
  if (dim <= 256) return Flash<FlashTiles<256>>(ctx, a).run();
  return Flash<FlashTiles<512>>(ctx, a).run();
}

}  // namespace NANO_ISA
}  // namespace nanovllm

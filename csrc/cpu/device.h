// The CPU as a device: threads, an instruction set, memory, and the op list with its arguments checked.
#pragma once

#include <optional>
#include <string>

#include "cpu/bandwidth.h"
#include "cpu/isa.h"
#include "cpu/memory.h"
#include "cpu/thread_pool.h"
#include "expect.h"

namespace nanovllm {

/// Arguments shared by both attention operations; absent tensors are null.
struct AttnInput {
  const TensorView *cuSeqlensQ, *cuSeqlensK, *contextLens, *blockTables;
  float scale;
  bool causal;
  /// sdpa.math's workspace, or all null for flash attention.
  const TensorView *denseK, *denseV, *scores;
};

/// Belongs to one thread of JavaScript. Everything is given back on destruction.
class CpuDevice {
 public:
  CpuDevice(const std::string& isa, int threads) : isa_(chooseIsa(isa)), pool_(threads) {}

  const Isa& isa() const { return isa_; }
  int threads() const { return pool_.threads(); }
  /// "cpu: 2 threads, …"
  std::string describe() const;
  Allocations& memory() { return memory_; }
  char* allocate(size_t bytes) { return memory_.allocate(bytes); }

  void loadRows(const TensorView& weight, int64_t firstRow, const char* bytes, size_t size, DType source);
  void embedding(const TensorView& out, const TensorView& ids, const TensorView& weight,
                 std::optional<int64_t> firstRow);
  void linear(const TensorView& out, const TensorView& x, const TensorView& weight, const TensorView* bias,
              bool accumulate);
  void rmsNorm(const TensorView& out, const TensorView& x, const TensorView& weight, float eps);
  void siluAndMul(const TensorView& out, const TensorView& x);
  void rotaryEmbedding(const TensorView& q, const TensorView& k, const TensorView& positions,
                       const TensorView& cosSin);
  void storeKvCache(const TensorView& k, const TensorView& v, const TensorView& kCache,
                    const TensorView& vCache, const TensorView& slots);
  void attention(const TensorView& out, const TensorView& q, const TensorView& k, const TensorView& v,
                 const AttnInput& input);
  void gatherRows(const TensorView& out, const TensorView& x, const TensorView& rows);
  void gatherTokens(const TensorView& out, const TensorView& table, const TensorView& slots);
  void scatterTokens(const TensorView& table, const TensorView& values, const TensorView& slots);
  void concatColumns(const TensorView& out, const TensorView& parts);
  void sample(const TensorView& out, const TensorView& logits, const SampleInput& input);
  double readBandwidth(size_t bytes, ReadPattern pattern, double seconds) {
    return nanovllm::readBandwidth(pool_, bytes, pattern, seconds);
  }

 private:
  const Isa& isa_;
  Allocations memory_;
  Scratch scratch_;
  ThreadPool pool_;
  Context context_{pool_, scratch_};
};

}  // namespace nanovllm

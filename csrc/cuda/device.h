// A GPU as a device: memory, a stream, captured graphs, and the op list with its arguments checked.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "cuda/gemm.h"
#include "cuda/graph.h"
#include "cuda/kernels.h"
#include "cuda/memory.h"

namespace nanovllm::cuda {

/// The rungs of the ladders that are in this build, lowest first.
struct PrefillRung {
  const char* name;
  PrefillKernel kernel;
};
struct DecodeRung {
  const char* name;
  DecodeKernel kernel;
};
const std::vector<PrefillRung>& prefillRungs();
const std::vector<DecodeRung>& decodeRungs();

/// Decode attention by the batch-invariant prefill kernel.
void decodeAsPrefill(const Launch&, const DecodeArgs&);

/// A result on its way to the host.
struct PendingRead {
  std::unique_ptr<Landing> landing;
  size_t bytes = 0;
};

struct DeviceOptions {
  int ordinal = 0;
  /// A row's bits never depend on what is computed beside it: own GEMM for every shape, one kernel for all
  /// attention.
  bool batchInvariant = false;
  /// Programmatic dependent launch, where the GPU has it (launch.cuh).
  bool programmatic = true;
  /// Names of rungs; empty: the fastest that takes the arguments.
  std::string prefillRung, decodeRung;
};

/// Belongs to one thread of JavaScript. All work goes to one stream, in order; only reads wait for it.
/// Everything is given back on destruction. CUDA's calls mean the GPU that the calling thread has chosen
/// last, so that one who may have chosen another comes through `makeCurrent` first.
class CudaDevice {
 public:
  /// @throws BackendError when there is no such GPU, or this build holds no code for it.
  explicit CudaDevice(const DeviceOptions& options);
  ~CudaDevice();

  int ordinal() const { return options_.ordinal; }
  /// What this thread calls from now on means this GPU.
  void makeCurrent() const;
  cudaStream_t stream() const { return launch_.stream; }
  std::string describe() const;
  DeviceMemory& memory() { return memory_; }
  char* allocate(size_t bytes) { return memory_.allocate(bytes, launch_.stream); }
  /// Bytes of the GPU's memory that nobody uses, and all it has.
  void memoryInfo(size_t& free, size_t& total) const;

  void copyIn(const TensorView& tensor, const char* bytes, size_t size);
  /// Starts copying a dense tensor to the host; what later launches do to the tensor does not matter.
  PendingRead startRead(const TensorView& tensor);
  void endRead(PendingRead read) { landings_.giveBack(std::move(read.landing)); }
  void loadRows(const TensorView& weight, int64_t firstRow, const char* bytes, size_t size, DType source);

  void beginCapture();
  std::unique_ptr<Graph> endCapture();
  void launchGraph(const Graph& graph) { graph.launch(launch_.stream); }
  /// Milliseconds of the GPU's time that each of `repeats` launches takes.
  std::vector<float> timeGraph(const Graph& graph, int repeats);
  /// Bytes read and written a second when copying `bytes` from device memory to device memory.
  double copyBandwidth(size_t bytes, int repeats);

  void embedding(const TensorView& out, const TensorView& ids, const TensorView& weight,
                 std::optional<int64_t> firstRow);
  void linear(const GemvArgs& args);
  void rmsNorm(const TensorView& out, const TensorView& x, const TensorView& weight, float eps);
  void siluAndMul(const TensorView& out, const TensorView& x);
  void rotaryEmbedding(const TensorView& q, const TensorView& k, const TensorView& positions,
                       const TensorView& cosSin);
  void storeKvCache(const TensorView& k, const TensorView& v, const TensorView& kCache,
                    const TensorView& vCache, const TensorView& slots);
  void qkNormRopeStore(const QkNormRopeStore& args);
  void attnVarlen(const TensorView& cuSeqlensQ, const TensorView& cuSeqlensK, PrefillArgs args,
                  const SdpaWorkspace* workspace);
  void attnWithKvCache(const TensorView& contextLens, DecodeArgs args, const SdpaWorkspace* workspace);
  void gatherRows(const TensorView& out, const TensorView& x, const TensorView& rows);
  void concatColumns(const TensorView& out, const TensorView& parts);
  void sample(const TensorView& out, const TensorView& logits, const SampleInput& input);
  void gatherTokens(const TensorView& out, const TensorView& table, const TensorView& slots);
  void scatterTokens(const TensorView& table, const TensorView& values, const TensorView& slots);

 private:
  /// The dtype of this call's activations, weights and cache.
  void expectHalf(const char* op, const char* name, const TensorView& tensor, int rank,
                  const TensorView& like) const;
  /// out = rows `ids` of `table`, whose first is row `firstRow`
  void gather(const char* op, const TensorView& out, const TensorView& table, const TensorView& ids,
              int64_t firstRow);
  PrefillKernel prefillKernel(const PrefillArgs& args) const;

  DeviceOptions options_;
  Stream stream_;  // destroyed last: after all that its work uses
  Launch launch_;
  std::string name_;
  DeviceMemory memory_;
  std::unique_ptr<Staging> staging_;
  Landings landings_;
  std::unique_ptr<Gemm> gemm_;
  PrefillKernel prefill_ = nullptr;  // when a rung was asked for
  DecodeKernel decode_ = nullptr;
  char* decodeScratch_ = nullptr;
  char* sampleScratch_ = nullptr;
  char* loadScratch_ = nullptr;
};

}  // namespace nanovllm::cuda

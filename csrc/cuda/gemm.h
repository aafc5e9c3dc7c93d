// Matrix products by cuBLASLt, NVIDIA's library: the one kernel that is not ours. The only file that needs
// its headers is gemm.cc; where they are missing, `available()` is false and gemmMma does the work.
#pragma once

#include <memory>

#include "cuda/kernels.h"

namespace nanovllm::cuda {

class Gemm {
 public:
  /// Takes its workspace now, so that no step ever allocates.
  Gemm();
  ~Gemm();

  static bool available();
  /// out = x · weightᵀ, without the bias. The algorithm is chosen at the first call of a shape and kept;
  /// large numbers of rows share one with their neighbours.
  void run(const Launch& on, const LinearArgs& args);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// out[T, N] += bias[N], in place.
void addBias(const Launch& on, const TensorView& out, const TensorView& bias);

}  // namespace nanovllm::cuda

// gemv with the steps around it done on its way in and out: in decoding these are kernels with hardly any
// work, each of which costs its launch and a round trip to memory.
#pragma once

#include "cuda/kernels.h"

namespace nanovllm::cuda {

struct GemvArgs : LinearArgs {
  /// Gains of an RMS norm of x, float32 [K]: the product takes rmsNorm(x). Null data: x itself.
  TensorView normWeight{};
  float eps = 0;
  /// SwiGLU: the weight's rows are gate's, then up's; out[T, N / 2] = silu(gate) · up. No bias.
  bool swiglu = false;
};
void gemv(const Launch&, const GemvArgs&);

}  // namespace nanovllm::cuda

// gemv with SwiGLU done on its way out: in decoding that is a kernel with hardly any work, which costs its
// launch and a round trip to memory. (An RMS norm on the way in was tried too: every block has to do it
// again, and nothing was gained.)
#pragma once

#include "cuda/kernels.h"

namespace nanovllm::cuda {

struct GemvArgs : LinearArgs {
  /// The weight's rows are gate's, then up's; out[T, N / 2] = silu(gate) · up. No bias.
  bool swiglu = false;
};
void gemv(const Launch&, const GemvArgs&);

}  // namespace nanovllm::cuda

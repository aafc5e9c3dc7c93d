// What happens to a linear layer's sums before they are stored.
#pragma once

#include <cstdint>

#include "tensor.h"

namespace nanovllm {

/// out = sum + bias, or out += sum + bias. A null bias adds nothing.
struct LinearEpilogue {
  const float* bias;
  bool accumulate;

  /// The same for the outputs from column n on.
  NANO_INLINE LinearEpilogue from(int64_t n) const { return {bias ? bias + n : nullptr, accumulate}; }
};

}  // namespace nanovllm

// The last step of every linear kernel: sums of one row's neighbouring outputs go to memory.
#pragma once

#include "cpu/kernels/simd.h"
#include "cpu/linear_epilogue.h"

namespace nanovllm {
namespace NANO_ISA {

/// `n` outputs from `out` on, whose sums these are; the epilogue's bias begins at the same output.
template <class Count>
NANO_INLINE void finish(float* out, Vec sums, const LinearEpilogue& epilogue, Count n) {
  if (epilogue.bias) sums = sums + loadN(epilogue.bias, n);
  if (epilogue.accumulate) sums = sums + loadN(out, n);
  storeN(out, sums, n);
}

}  // namespace NANO_ISA
}  // namespace nanovllm

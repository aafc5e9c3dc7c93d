// Work that goes row by row, spread over the threads.
#pragma once

#include "cpu/kernels.h"
#include "cpu/kernels/simd.h"

namespace nanovllm {
namespace NANO_ISA {

/// Elements a task must have to be worth handing to another thread (some microseconds of work).
constexpr int64_t kElementsPerTask = 8192;

/// Calls `body(row)` for every row of `elements` elements.
template <class Body>
inline void forEachRow(Context& ctx, int64_t rows, int64_t elements, const Body& body) {
  const int64_t rowsPerTask = kElementsPerTask / (elements > 0 ? elements : 1) + 1;
  const int64_t tasks = (rows + rowsPerTask - 1) / rowsPerTask;
  ctx.pool.run(static_cast<int>(tasks), [&](int task, int) {
    const int64_t begin = task * rowsPerTask, end = begin + rowsPerTask < rows ? begin + rowsPerTask : rows;
    for (int64_t row = begin; row < end; row++) body(row);
  });
}

}  // namespace NANO_ISA
}  // namespace nanovllm

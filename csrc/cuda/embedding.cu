// Moving rows: out[r] = table[ids[r]] (the embedding; the choice of rows for the LM head), the columns of
// several GPUs' logits side by side, and the conversion of checkpoint numbers to the model's dtype at load.
#include "cuda/launch.cuh"
#include "cuda/rows.cuh"

namespace nanovllm::cuda {
namespace {

constexpr int kThreads = 128;

// Rows are bytes here, moved in the widest `Unit` that every row's address and length allow. Strides and
// widths count units.

/// The table's rows are `firstRow …` of a larger one, and other ids give zeros. For a whole table that means
/// that an id out of range, which only the device could see, reads nothing it should not.
template <class Unit>
__global__ void gatherKernel(Unit* out, int64_t outStride, const Unit* table, int64_t tableStride,
                             int64_t firstRow, int64_t tableRows, const int32_t* ids, int units) {
  launchDependents();
  waitForPrevious();
  const int64_t id = ids[blockIdx.x] - firstRow;
  const int i = blockIdx.y * kThreads + threadIdx.x;
  if (i >= units) return;
  out[blockIdx.x * outStride + i] = id >= 0 && id < tableRows ? table[id * tableStride + i] : Unit{};
}

/// Block row b of out = parts[0][b], parts[1][b], …, each of `width` units.
template <class Unit>
__global__ void concatKernel(Unit* out, int64_t outStride, const Unit* parts, int width, int units) {
  launchDependents();
  waitForPrevious();
  const int64_t row = blockIdx.x, rows = gridDim.x;
  const int i = blockIdx.y * kThreads + threadIdx.x;
  if (i < units) out[row * outStride + i] = parts[(i / width * rows + row) * width + i % width];
}

template <class Unit>
bool fits(const TensorView& x) {
  constexpr uintptr_t kSize = sizeof(Unit);
  const int bytes = bytesOf(x.dtype);
  return reinterpret_cast<uintptr_t>(x.data) % kSize == 0 && x.size[1] * bytes % kSize == 0 &&
         x.stride[0] * bytes % kSize == 0;
}

/// Calls `body` with a value of the widest unit that fits both matrices, and with the number of elements in
/// it.
template <class Body>
void withUnit(const TensorView& a, const TensorView& b, const Body& body) {
  const int bytes = bytesOf(a.dtype);
  if (fits<uint4>(a) && fits<uint4>(b)) {
    body(uint4{}, 16 / bytes);
  } else if (bytes == 4) {
    body(uint32_t{}, 1);
  } else {
    body(uint16_t{}, 1);
  }
}

/// One thread a unit of a row.
dim3 gridOf(const TensorView& out, int units) {
  return dim3(static_cast<unsigned>(out.size[0]), (units + kThreads - 1) / kThreads);
}

template <class To, class From, bool kWide>
__global__ void convertKernel(To* target, const From* source, int64_t count) {
  launchDependents();
  waitForPrevious();
  const int64_t i = (blockIdx.x * int64_t{kThreads} + threadIdx.x) * 8;
  if (i >= count) return;
  const int left = count - i < 8 ? static_cast<int>(count - i) : 8;
  float numbers[8];
  if (kWide && left == 8) {
    loadEight<kWide>(source + i, 8, numbers);
    storeEight<kWide>(target + i, 8, numbers);
  } else {
    loadEight<false>(source + i, left, numbers);
    storeEight<false>(target + i, left, numbers);
  }
}

/// `dispatch` for float32, too.
template <class Body>
void dispatchAny(DType dtype, const Body& body) {
  dtype == DType::kFloat32 ? body(float{}) : dispatch(dtype, body);
}

}  // namespace

void gatherRows(const Launch& on, const TensorView& out, const TensorView& table, const TensorView& ids,
                int64_t firstRow) {
  if (out.dtype != table.dtype)
    throw TensorError("gatherRows copies rows: both tensors need the same dtype.");
  withUnit(out, table, [&](auto unit, int perUnit) {
    using Unit = decltype(unit);
    const int units = static_cast<int>(out.size[1] / perUnit);
    launch(on, "gatherRows", gatherKernel<Unit>, gridOf(out, units), kThreads, 0, out.as<Unit>(),
           out.stride[0] / perUnit, static_cast<const Unit*>(table.as<Unit>()), table.stride[0] / perUnit,
           firstRow, table.size[0], ids.i32(), units);
  });
}

void concatColumns(const Launch& on, const TensorView& out, const TensorView& parts) {
  const auto rows = TensorView::matrix(parts.data, parts.dtype, parts.size[0] * parts.size[1], parts.size[2]);
  withUnit(out, rows, [&](auto unit, int perUnit) {
    using Unit = decltype(unit);
    const int units = static_cast<int>(out.size[1] / perUnit);
    launch(on, "concatColumns", concatKernel<Unit>, gridOf(out, units), kThreads, 0, out.as<Unit>(),
           out.stride[0] / perUnit, static_cast<const Unit*>(rows.as<Unit>()),
           static_cast<int>(rows.size[1] / perUnit), units);
  });
}

void convert(const Launch& on, void* target, DType targetType, const void* source, DType sourceType,
             int64_t count) {
  const dim3 grid(static_cast<unsigned>((count + kThreads * 8 - 1) / (kThreads * 8)));
  const bool aligned = (reinterpret_cast<uintptr_t>(target) | reinterpret_cast<uintptr_t>(source)) % 16 == 0;
  dispatchAny(targetType, [&](auto to) {
    dispatchAny(sourceType, [&](auto from) {
      using To = decltype(to);
      using From = decltype(from);
      choose(aligned, [&](auto wide) {
        launch(on, "convert", convertKernel<To, From, wide.value>, grid, kThreads, 0,
               static_cast<To*>(target), static_cast<const From*>(source), count);
      });
    });
  });
}

}  // namespace nanovllm::cuda

// Moving rows: out[r] = table[ids[r]] (the embedding; the choice of rows for the LM head), and the conversion
// of checkpoint numbers to the model's dtype at load.
#include "cuda/launch.cuh"
#include "cuda/rows.cuh"

namespace nanovllm::cuda {
namespace {

constexpr int kThreads = 128;

/// Rows are bytes here, moved in the widest `Unit` that every row's address and length allow. Strides count
/// units.
template <class Unit>
__global__ void gatherKernel(Unit* out, int64_t outStride, const Unit* table, int64_t tableStride,
                             const int32_t* ids, int units) {
  launchDependents();
  waitForPrevious();
  const int64_t id = ids[blockIdx.x];
  const int i = blockIdx.y * kThreads + threadIdx.x;
  if (i < units) out[blockIdx.x * outStride + i] = table[id * tableStride + i];
}

template <class Unit>
bool fits(const TensorView& x) {
  constexpr uintptr_t kSize = sizeof(Unit);
  const int bytes = bytesOf(x.dtype);
  return reinterpret_cast<uintptr_t>(x.data) % kSize == 0 && x.size[1] * bytes % kSize == 0 &&
         x.stride[0] * bytes % kSize == 0;
}

template <class Unit>
void gatherUnits(const Launch& on, const TensorView& out, const TensorView& table, const TensorView& ids) {
  const int perUnit = sizeof(Unit) / bytesOf(out.dtype), units = static_cast<int>(out.size[1] / perUnit);
  const dim3 grid(static_cast<unsigned>(out.size[0]), (units + kThreads - 1) / kThreads);
  launch(on, "gatherRows", gatherKernel<Unit>, grid, kThreads, 0, out.as<Unit>(), out.stride[0] / perUnit,
         static_cast<const Unit*>(table.as<Unit>()), table.stride[0] / perUnit, ids.i32(), units);
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

void gatherRows(const Launch& on, const TensorView& out, const TensorView& table, const TensorView& ids) {
  if (out.dtype != table.dtype)
    throw TensorError("gatherRows copies rows: both tensors need the same dtype.");
  if (fits<uint4>(out) && fits<uint4>(table)) {
    gatherUnits<uint4>(on, out, table, ids);
  } else if (bytesOf(out.dtype) == 4) {
    gatherUnits<uint32_t>(on, out, table, ids);
  } else {
    gatherUnits<uint16_t>(on, out, table, ids);
  }
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

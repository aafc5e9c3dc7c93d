// A tensor as it crosses from TypeScript: the twelve doubles of `Tensor.desc` (src/tensor/tensor.ts).
#pragma once

#include <cstdint>
#include <string>

#include "error.h"

/// For functions in headers that kernels share. Kernels are compiled once for each instruction set; a
/// function that is not inlined would exist several times under one name, and the linker might keep the copy
/// that an older processor cannot run.
#define NANO_INLINE inline __attribute__((always_inline))

namespace nanovllm {

/// Codes shared with src/tensor/tensor.ts.
enum class DType : int { kFloat32 = 0, kBFloat16 = 1, kFloat16 = 2, kInt32 = 3 };
enum class Layout : int { kStrided = 0, kPacked = 1 };

inline const char* nameOf(DType dtype) {
  const char* const names[] = {"float32", "bfloat16", "float16", "int32"};
  return names[static_cast<int>(dtype)];
}

NANO_INLINE int bytesOf(DType dtype) { return dtype == DType::kBFloat16 || dtype == DType::kFloat16 ? 2 : 4; }

/// A handle: it owns nothing. The innermost dimension is contiguous; strides count elements.
struct TensorView {
  char* data = nullptr;
  DType dtype = DType::kFloat32;
  Layout layout = Layout::kStrided;
  int rank = 0;
  int64_t size[4] = {};
  int64_t stride[4] = {};

  /// The descriptor's doubles: address, dtype, layout, rank, four sizes, four strides.
  static constexpr int kDescriptorLength = 12;
  static TensorView fromDescriptor(const double* d) {
    TensorView t;
    t.data = reinterpret_cast<char*>(static_cast<uintptr_t>(d[0]));
    t.dtype = static_cast<DType>(static_cast<int>(d[1]));
    t.layout = static_cast<Layout>(static_cast<int>(d[2]));
    t.rank = static_cast<int>(d[3]);
    for (int i = 0; i < 4; i++) {
      t.size[i] = static_cast<int64_t>(d[4 + i]);
      t.stride[i] = static_cast<int64_t>(d[8 + i]);
    }
    return t;
  }

  /// A dense matrix.
  static TensorView matrix(char* data, DType dtype, int64_t rows, int64_t columns) {
    TensorView t;
    t.data = data;
    t.dtype = dtype;
    t.rank = 2;
    t.size[0] = rows;
    t.size[1] = t.stride[0] = columns;
    t.stride[1] = 1;
    return t;
  }

  template <class T>
  NANO_INLINE T* as() const {
    return reinterpret_cast<T*>(data);
  }
  NANO_INLINE float* f32() const { return as<float>(); }
  NANO_INLINE int32_t* i32() const { return as<int32_t>(); }

  NANO_INLINE int64_t numel() const {
    int64_t n = 1;
    for (int i = 0; i < rank; i++) n *= size[i];
    return n;
  }

  bool isContiguous() const {
    int64_t dense = 1;
    for (int i = rank - 1; i >= 0; i--) {
      if (size[i] > 1 && stride[i] != dense) return false;
      dense *= size[i];
    }
    return true;
  }

  /// "[3, 16] float32", for error messages.
  std::string describe() const {
    std::string text = "[";
    for (int i = 0; i < rank; i++) text += (i ? ", " : "") + std::to_string(size[i]);
    return text + "] " + nameOf(dtype) + (layout == Layout::kPacked ? " packed" : "");
  }
};

}  // namespace nanovllm

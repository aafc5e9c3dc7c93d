// Rows of activations as the elementwise kernels walk them: eight elements a thread, in one 16-byte access
// where rows are aligned. A memory-bound kernel is as fast as its accesses are wide: one instruction then
// moves 512 bytes for a warp.
#pragma once

#include <type_traits>

#include "cuda/numbers.cuh"

namespace nanovllm::cuda {

/// The rows of [T, H], or of [T, heads, D] (row r is head r % heads of token r / heads).
template <class T>
struct Rows {
  T* data;
  int64_t tokenStride, headStride;
  unsigned heads;

  __device__ __forceinline__ T* operator[](unsigned row) const {
    return data + row / heads * tokenStride + row % heads * headStride;
  }
};

template <class T>
Rows<T> rowsOf(const TensorView& x) {
  const bool perHead = x.rank == 3;
  return {x.as<T>(), x.stride[0], perHead ? x.stride[1] : 0, perHead ? static_cast<unsigned>(x.size[1]) : 1};
}

/// Whether every row starts at a multiple of 16 bytes and, cut into `parts` equal parts, so does each part.
inline bool isWide(const TensorView& x, int parts = 1) {
  const int64_t inSixteenBytes = 16 / bytesOf(x.dtype);
  bool wide =
      reinterpret_cast<uintptr_t>(x.data) % 16 == 0 && x.size[x.rank - 1] % (parts * inSixteenBytes) == 0;
  for (int i = 0; i < x.rank - 1; i++) wide = wide && (x.size[i] <= 1 || x.stride[i] % inSixteenBytes == 0);
  return wide;
}

/// Eight elements as floats. `kWide`: in 16-byte loads; otherwise one by one, those from `count` on being
/// zero.
template <bool kWide, class T>
__device__ __forceinline__ void loadEight(const T* from, int count, float (&to)[8]) {
  if constexpr (kWide && sizeof(T) == 2) {
    unpack<T>(*reinterpret_cast<const uint4*>(from), to);
  } else if constexpr (kWide) {
    const float4 low = reinterpret_cast<const float4*>(from)[0],
                 high = reinterpret_cast<const float4*>(from)[1];
    to[0] = low.x, to[1] = low.y, to[2] = low.z, to[3] = low.w;
    to[4] = high.x, to[5] = high.y, to[6] = high.z, to[7] = high.w;
  } else {
#pragma unroll
    for (int i = 0; i < 8; i++) to[i] = i < count ? toFloat(from[i]) : 0.0f;
  }
}

template <bool kWide, class T>
__device__ __forceinline__ void storeEight(T* to, int count, const float (&from)[8]) {
  if constexpr (kWide && sizeof(T) == 2) {
    *reinterpret_cast<uint4*>(to) = pack<T>(from);
  } else if constexpr (kWide) {
    reinterpret_cast<float4*>(to)[0] = make_float4(from[0], from[1], from[2], from[3]);
    reinterpret_cast<float4*>(to)[1] = make_float4(from[4], from[5], from[6], from[7]);
  } else {
#pragma unroll
    for (int i = 0; i < 8; i++) {
      if (i < count) to[i] = fromFloat<T>(from[i]);
    }
  }
}

/// Calls `body` with std::true_type or std::false_type: a run-time choice becomes a template argument.
template <class Body>
void choose(bool condition, const Body& body) {
  condition ? body(std::true_type{}) : body(std::false_type{});
}

}  // namespace nanovllm::cuda

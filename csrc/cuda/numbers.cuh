// bfloat16 and float16 in kernels: conversions, 16-byte loads, sums over a warp or a block.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "error.h"
#include "tensor.h"

namespace nanovllm::cuda {

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

__device__ __forceinline__ float toFloat(float x) { return x; }
__device__ __forceinline__ float toFloat(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ __forceinline__ float toFloat(__half x) { return __half2float(x); }

template <class T>
__device__ __forceinline__ T fromFloat(float x);
template <>
__device__ __forceinline__ float fromFloat<float>(float x) {
  return x;
}
template <>
__device__ __forceinline__ __nv_bfloat16 fromFloat<__nv_bfloat16>(float x) {
  return __float2bfloat16_rn(x);
}
template <>
__device__ __forceinline__ __half fromFloat<__half>(float x) {
  return __float2half_rn(x);
}

/// The two-element vector type of a 16-bit float, and its conversion.
template <class T>
struct Pair;
template <>
struct Pair<__nv_bfloat16> {
  using Type = __nv_bfloat162;
};
template <>
struct Pair<__half> {
  using Type = __half2;
};
__device__ __forceinline__ float2 toFloat2(__nv_bfloat162 x) { return __bfloat1622float2(x); }
__device__ __forceinline__ float2 toFloat2(__half2 x) { return __half22float2(x); }

/// Eight 16-bit floats in 16 bytes: the widest access a thread has.
template <class T>
struct alignas(16) Eight {
  T value[8];
};

/// The eight numbers of 16 loaded bytes.
template <class T>
__device__ __forceinline__ void unpack(const uint4& bits, float (&out)[8]) {
  const auto* pairs = reinterpret_cast<const typename Pair<T>::Type*>(&bits);
#pragma unroll
  for (int i = 0; i < 4; i++) {
    const float2 pair = toFloat2(pairs[i]);
    out[2 * i] = pair.x;
    out[2 * i + 1] = pair.y;
  }
}

template <class T>
__device__ __forceinline__ uint4 pack(const float (&in)[8]) {
  Eight<T> out;
#pragma unroll
  for (int i = 0; i < 8; i++) out.value[i] = fromFloat<T>(in[i]);
  return *reinterpret_cast<const uint4*>(&out);
}

__device__ __forceinline__ float warpSum(float x) {
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(kAllLanes, x, offset);
  return x;
}

__device__ __forceinline__ float warpMax(float x) {
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2) x = fmaxf(x, __shfl_xor_sync(kAllLanes, x, offset));
  return x;
}

/// Calls `body` with a value of the C++ type of a 16-bit float dtype: `dispatch(dtype, [&](auto zero) { using
/// T = decltype(zero); … })`.
template <class Body>
void dispatch(DType dtype, const Body& body) {
  if (dtype == DType::kBFloat16) {
    body(__nv_bfloat16{});
  } else if (dtype == DType::kFloat16) {
    body(__half{});
  } else {
    throw TensorError(std::string("The cuda backend computes in bfloat16 or float16, not in ") +
                      nameOf(dtype) + ".");
  }
}

}  // namespace nanovllm::cuda

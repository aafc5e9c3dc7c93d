// Tensor-core building blocks of compute capability 8.0, each one instruction: asynchronous copies to shared
// memory (cp.async), loads of matrix fragments (ldmatrix) and the product of a 16x16 and a 16x8 tile
// (mma.sync). PTX ISA, "Warp-level matrix instructions".
//
// A fragment is a warp's share of a small matrix. In what follows g = lane / 4 and t = lane % 4:
//   A [16 x 16]: columns 2t, 2t+1 of rows g and g+8, then columns 2t+8, 2t+9: four registers of two numbers
//   B [16 x 8]:  rows 2t, 2t+1 of column g, then rows 2t+8, 2t+9: two registers of two numbers
//   C [16 x 8]:  columns 2t, 2t+1 of row g, then of row g+8: four float32
// C's layout is that of A's left or right half: two neighbouring C tiles, rounded to 16 bits, are an A tile.
// This is why the weights of attention go from the first product to the second without leaving the registers.
#pragma once

#include <type_traits>

#include "cuda/numbers.cuh"

namespace nanovllm::cuda {

__device__ __forceinline__ unsigned sharedAddress(const void* p) {
  return static_cast<unsigned>(__cvta_generic_to_shared(p));
}

/// Copies 16 bytes from global to shared memory without passing through registers; writes zeros if not
/// `exists`.
__device__ __forceinline__ void copyAsync16(void* to, const void* from, bool exists) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(sharedAddress(to)), "l"(from),
               "r"(exists ? 16 : 0));
}
/// Waits for all of this thread's copies.
__device__ __forceinline__ void waitForCopies() { asm volatile("cp.async.wait_all;" ::: "memory"); }

/// Four 8x8 matrices of 16-bit numbers. Lane 8i+r gives the (shared) address of row r of matrix i, and gets,
/// of each matrix, columns 2t and 2t+1 of row g.
__device__ __forceinline__ void loadMatrices(uint32_t (&r)[4], unsigned row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(row)
               : "memory");
}
/// The same, each matrix transposed: rows 2t and 2t+1 of column g.
__device__ __forceinline__ void loadMatricesTransposed(uint32_t (&r)[4], unsigned row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(row)
               : "memory");
}

/// Chunk `chunk` (eight numbers) of a swizzled row.
template <class T, int kRowLength>
__device__ __forceinline__ T* chunkOf(T (*tile)[kRowLength], int row, int chunk) {
  return &tile[row][(chunk ^ (row & 7)) * 8];
}

/// The same place `pair` pairs of chunks further along the row and `rows` rows down, a multiple of eight.
/// Rows begin at multiples of 128 bytes, so that the XOR of a chunk's number can be done to its address: one
/// instruction, and one register a lane.
template <class T, int kRowLength>
__device__ __forceinline__ unsigned chunkFrom(unsigned place, int rows, int pair) {
  return (place ^ pair % 4 * 32) + pair / 4 * 128 + rows * kRowLength * sizeof(T);
}

/// c += a b
template <class T>
__device__ __forceinline__ void multiplyAdd(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  } else {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  }
}

/// Two float32 rounded to 16 bits, the first in the low half.
template <class T>
__device__ __forceinline__ uint32_t packPair(float low, float high) {
  typename Pair<T>::Type pair;
  if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    pair = __floats2bfloat162_rn(low, high);
  } else {
    pair = __floats2half2_rn(low, high);
  }
  return *reinterpret_cast<const uint32_t*>(&pair);
}

}  // namespace nanovllm::cuda

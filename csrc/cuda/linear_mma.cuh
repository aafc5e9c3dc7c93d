// The instructions that the linear layers share, each under a name: asynchronous copies into shared memory,
// and matrix products on tensor cores (PTX ISA, "cp.async", "ldmatrix", "mma"; compute capability 8.0 and
// later).
#pragma once

#include <type_traits>

#include "cuda/numbers.cuh"

namespace nanovllm::cuda {

/// The 32-bit address that instructions on shared memory take.
__device__ __forceinline__ uint32_t sharedAddress(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

/// Starts copying 16 bytes from global to shared memory, past the registers and the L1 cache. Nobody waits,
/// so that a thread can have many copies under way. Where `valid` is false nothing is read, and the 16 bytes
/// become zero.
__device__ __forceinline__ void copyAsync(uint32_t to, const void* from, bool valid) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(to), "l"(from),
               "r"(valid ? 16 : 0)
               : "memory");
}

/// The same for what is read once a step: the L2 cache gives it up first, and keeps activations and tables
/// instead.
__device__ __forceinline__ void streamAsync(uint32_t to, const void* from, bool valid) {
  uint64_t evictFirst;
  asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(evictFirst));
  asm volatile("cp.async.cg.shared.global.L2::cache_hint.L2::128B [%0], [%1], 16, %2, %3;" ::"r"(to),
               "l"(from), "r"(valid ? 16 : 0), "l"(evictFirst)
               : "memory");
}

/// Ends a group of copies (possibly empty). Groups complete in order.
__device__ __forceinline__ void commitCopies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

/// Waits until at most the last `kPending` groups that this thread committed are still under way.
template <int kPending>
__device__ __forceinline__ void waitForCopies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

/// c += A · B for A[16, 16], B[16, 8], c[16, 8], one fragment of each in every lane's registers. With g =
/// lane / 4 and q = lane % 4, a register of A or B holds two neighbours along k:
///   a[0] = A[g][2q, 2q+1]   a[1] = A[g+8][2q, 2q+1]   a[2] = A[g][2q+8, 2q+9]   a[3] = A[g+8][2q+8, 2q+9]
///   b[0] = B[2q, 2q+1][g]   b[1] = B[2q+8, 2q+9][g]
///   c[0], c[1] = C[g][2q, 2q+1]   c[2], c[3] = C[g+8][2q, 2q+1]
template <class T>
__device__ __forceinline__ void mma(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                                    uint32_t b0, uint32_t b1) {
  if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
  } else {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
  }
}

/// Loads four 8×8 matrices of 16-bit numbers as fragments: lane l gives the address of row l % 8 (16 bytes)
/// of matrix l / 8, and gets in register i the neighbours [l / 4][2 (l % 4), +1] of matrix i.
__device__ __forceinline__ void loadMatrices(uint32_t (&to)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(address));
}

}  // namespace nanovllm::cuda

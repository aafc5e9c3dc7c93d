// Tensor cores for decode attention, fed from global memory without a stop in shared memory.
//
// One instruction, mma.m16n8k16, multiplies A [16, 16] by B [16, 8] and adds to C [16, 8], all spread over a
// warp's registers (PTX ISA, "Matrix fragments for mma.m16n8k16"). With g = lane / 4 and t = lane % 4, a lane
// holds
//
//   A, four registers of two numbers: (row g, columns 2t and 2t+1), (row g+8, the same columns),
//                                     (row g, columns 2t+8 and 2t+9), (row g+8, the same columns)
//   B, two registers of two numbers:  (rows 2t and 2t+1, column g), (rows 2t+8 and 2t+9, column g)
//   C, four float32:                  (row g, columns 2t and 2t+1), (row g+8, the same columns)
//
// Sixteen keys are the rows of A and up to eight query heads the columns of B: scores = K·qᵀ [16 keys, 8
// heads]. The output is computed transposed as well: outᵀ = Vᵀ·P [dims, 8 heads], sixteen dims at a time.
//
// The trick is in what the rows and columns stand for. A sum does not care in which order its terms come, so
// the columns of A may be any sixteen dims, if the rows of B are the same ones. A lane reads 16 contiguous
// bytes of a key, eight dims, and calls them columns (2t, 2t+1, 2t+8, 2t+9) of two products. The same holds
// for the order of the outputs' rows.
#pragma once

#include <type_traits>

#include "cuda/numbers.cuh"

namespace nanovllm::cuda {

constexpr int kMmaKeys = 16;
constexpr int kMmaHeads = 8;

/// c += a·b
template <class T>
__device__ __forceinline__ void mma(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                                    uint32_t b0, uint32_t b1) {
  if constexpr (std::is_same_v<T, __half>) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
  } else {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
  }
}

/// Two float32 of an 8×8 matrix laid out like half of C become one register of B: rounded to 16 bits, and
/// transposed across the warp.
template <class T>
__device__ __forceinline__ uint32_t transposed(float first, float second) {
  union {
    T value[2];
    uint32_t bits;
  } pair = {{fromFloat<T>(first), fromFloat<T>(second)}};
  uint32_t out;
  asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(out) : "r"(pair.bits));
  return out;
}

/// 16 bytes that are read once: they need no place in the L1 cache.
template <class T>
__device__ __forceinline__ uint4 loadOnce(const T* from) {
  uint4 bits;
  asm volatile("ld.global.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(bits.x), "=r"(bits.y), "=r"(bits.z), "=r"(bits.w)
               : "l"(from));
  return bits;
}

/// scores [16 keys, 8 heads] += keys · queryᵀ over 32 dims. `low` and `high` are eight dims of keys g and
/// g+8, `query` of head g.
template <class T>
__device__ __forceinline__ void addScores(float (&scores)[4], const uint4& low, const uint4& high,
                                          const uint4& query) {
  mma<T>(scores, low.x, high.x, low.y, high.y, query.x, query.y);
  mma<T>(scores, low.z, high.z, low.w, high.w, query.z, query.w);
}

/// out [8 dims of this lane, 2 heads of this lane] += over 16 keys. `value` holds eight dims of keys 2t,
/// 2t+1, 2t+8 and 2t+9; out[i] the heads' dims 2i and 2i+1, as C has them. A needs two keys of one dim in a
/// register, memory has two dims of one key: a byte permutation makes one from the other.
template <class T>
__device__ __forceinline__ void addValues(float (&out)[4][4], const uint4 (&value)[4], uint32_t weights0,
                                          uint32_t weights1) {
  const auto row = [&](uint32_t k0, uint32_t k1, uint32_t k8, uint32_t k9, float (&c)[4]) {
    constexpr unsigned kLow = 0x5410, kHigh = 0x7632;
    mma<T>(c, __byte_perm(k0, k1, kLow), __byte_perm(k0, k1, kHigh), __byte_perm(k8, k9, kLow),
           __byte_perm(k8, k9, kHigh), weights0, weights1);
  };
  row(value[0].x, value[1].x, value[2].x, value[3].x, out[0]);
  row(value[0].y, value[1].y, value[2].y, value[3].y, out[1]);
  row(value[0].z, value[1].z, value[2].z, value[3].z, out[2]);
  row(value[0].w, value[1].w, value[2].w, value[3].w, out[3]);
}

}  // namespace nanovllm::cuda

// What Hopper (compute capability 9.0) adds, wrapped: barriers that count bytes, copies of whole boxes by the
// copy engine (TMA), and registers handed from one warpgroup to another. The matrix products are in
// wgmma.cuh. PTX ISA, "Asynchronous operations" and "Tensors"; CUDA C++ Programming Guide, "Tensor map".
#pragma once

#include <cuda.h>

#include "cuda/launch.cuh"

namespace nanovllm::cuda {

constexpr int kWarpgroup = 128;  // four warps that issue one wgmma together

#ifdef __CUDA_ARCH_FEAT_SM90_ALL
#define NANO_HOPPER 1  // only code for sm_90a may contain wgmma and setmaxnreg
#endif

#ifdef __CUDACC__

/// A barrier in shared memory. A phase ends when `arrivals` threads have arrived and as many bytes as were
/// announced have been copied; the barrier then counts for the next phase. Waiting is for the end of the
/// phase of a given parity: the first phase has parity 0, the second 1, the third 0, … Waiting on a fresh
/// barrier for parity 1 thus returns at once, as if a phase before the first had ended: a producer's first
/// wait for an empty buffer needs no special case.
struct Barrier {
  uint64_t state;

  __device__ unsigned address() const { return static_cast<unsigned>(__cvta_generic_to_shared(&state)); }
  __device__ void init(int arrivals) {
    asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(address()), "r"(arrivals) : "memory");
  }
  __device__ void arrive() {
    asm volatile("mbarrier.arrive.shared.b64 _, [%0];" ::"r"(address()) : "memory");
  }
  /// Arrives, and announces bytes that the copy engine will report to this barrier.
  __device__ void arriveExpecting(unsigned bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;" ::"r"(address()), "r"(bytes) : "memory");
  }
  __device__ void wait(unsigned parity) {
    unsigned done;
    do {  // try_wait sleeps for a while before it gives up
      asm volatile(
          "{\n.reg .pred done;\n"
          "mbarrier.try_wait.parity.shared.b64 done, [%1], %2;\n"
          "selp.u32 %0, 1, 0, done;\n}"
          : "=r"(done)
          : "r"(address()), "r"(parity)
          : "memory");
    } while (!done);
  }
};

/// Makes initialised barriers visible to the copy engine.
__device__ __forceinline__ void fenceBarrierInit() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

/// Makes this thread's ordinary writes to shared memory visible to wgmma and the copy engine, which read it
/// another way.
__device__ __forceinline__ void fenceProxyAsync() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

/// Where in a ring of kStages buffers a warp is; `parity` flips with every turn.
template <int kStages>
struct RingPosition {
  int stage = 0;
  unsigned parity = 0;
  __device__ void advance() {
    if (++stage == kStages) {
      stage = 0;
      parity ^= 1;
    }
  }
};

/// Barriers among `threads` threads of a block, by number (0 is __syncthreads). One side may arrive without
/// waiting.
__device__ __forceinline__ void namedBarrierSync(int number, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(number), "r"(threads) : "memory");
}
__device__ __forceinline__ void namedBarrierArrive(int number, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(number), "r"(threads) : "memory");
}

// A tensor map tells the copy engine a tensor's address, sizes and strides and the box that one copy moves,
// 16-bit numbers to shared memory, whose address arithmetic, bounds checks (outside is zero) and swizzle then
// cost no instruction at all. One thread starts a copy of the box at the given coordinates, innermost first;
// its bytes are reported to the barrier.
__device__ __forceinline__ void copyBox(const CUtensorMap& map, Barrier& barrier, void* to, int c0, int c1,
                                        int c2) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5}], "
      "[%2];" ::"r"(static_cast<unsigned>(__cvta_generic_to_shared(to))),
      "l"(&map), "r"(barrier.address()), "r"(c0), "r"(c1), "r"(c2)
      : "memory");
}
__device__ __forceinline__ void copyBox(const CUtensorMap& map, Barrier& barrier, void* to, int c0, int c1,
                                        int c2, int c3, int c4) {
  asm volatile(
      "cp.async.bulk.tensor.5d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5, "
      "%6, %7}], [%2];" ::"r"(static_cast<unsigned>(__cvta_generic_to_shared(to))),
      "l"(&map), "r"(barrier.address()), "r"(c0), "r"(c1), "r"(c2), "r"(c3), "r"(c4)
      : "memory");
}
__device__ __forceinline__ void prefetchMap(const CUtensorMap& map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
}

#ifdef NANO_HOPPER
/// Registers a thread of this warpgroup may use from here on: a warpgroup that only copies gives up its share
/// to those that calculate.
template <int kRegisters>
__device__ __forceinline__ void shrinkRegisters() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
__device__ __forceinline__ void growRegisters() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
#endif
#endif  // __CUDACC__

/// A tensor map of 16-bit numbers, swizzled over 128 bytes: the box's inner dimension is 64 numbers.
/// `strides` are of dimensions 1, 2, … in numbers. libcuda is not linked: its function is looked up at run
/// time, so that the program starts without a driver.
template <int kRank>
CUtensorMap tensorMap(const TensorView& tensor, const int64_t (&sizes)[kRank],
                      const int64_t (&strides)[kRank - 1], const int (&box)[kRank]) {
  static const auto encode = [] {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult found;
    check(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault,
                                           &found),
          "cuTensorMapEncodeTiled");
    return reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(function);
  }();
  cuuint64_t size[kRank], stride[kRank - 1];
  cuuint32_t boxSize[kRank], step[kRank];
  for (int i = 0; i < kRank; i++) {
    size[i] = sizes[i];
    boxSize[i] = box[i];
    step[i] = 1;
    if (i > 0) stride[i - 1] = strides[i - 1] * 2;
  }
  CUtensorMap map;
  const CUresult status = encode(
      &map,
      tensor.dtype == DType::kBFloat16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
      kRank, tensor.data, size, stride, boxSize, step, CU_TENSOR_MAP_INTERLEAVE_NONE,
      CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (status != CUDA_SUCCESS) {
    throw BackendError(
        format("CUDA: cuTensorMapEncodeTiled failed with status %d.", static_cast<int>(status)));
  }
  return map;
}

}  // namespace nanovllm::cuda

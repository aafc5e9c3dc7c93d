// Launching a kernel, with its errors turned into ours, and programmatic dependent launch.
//
// A kernel normally starts when the one before it has ended and all its writes are visible. Between the two
// the GPU is idle for one or two microseconds, and a decode step has hundreds of kernels. With programmatic
// dependent launch (compute capability 9.0) the next kernel starts as soon as every block of this one has
// called `launchDependents()` or ended; it does what needs no results (computing addresses, reading weights)
// and then calls `waitForPrevious()`, which returns when the previous kernel has ended and its writes are
// visible.
//
// The rules: every kernel launched with `launch()` calls `waitForPrevious()` in all its threads before it
// reads or writes anything that an earlier kernel of the step writes or reads. Since a kernel ends only after
// its own wait, waiting for the previous one means that all before it have ended too. What no kernel of the
// step writes may be read before: weights, the step's inputs, keys and values of earlier steps. (Between two
// steps lies a copy of inputs or the launch of a graph, which wait for all that was launched before.)
#pragma once

#include <utility>

#include "cuda/kernels.h"
#include "error.h"

namespace nanovllm::cuda {

inline void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // forget it: the next call should not report it again
  throw BackendError(format("CUDA: %s failed: %s.", what, cudaGetErrorString(status)));
}

#ifdef __CUDACC__
__device__ __forceinline__ void waitForPrevious() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

__device__ __forceinline__ void launchDependents() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
#endif
}

/// kernel<<<grid, block, sharedBytes, stream>>>(args...)
template <class... Params, class... Args>
void launch(const Launch& on, const char* name, void (*kernel)(Params...), dim3 grid, dim3 block,
            size_t sharedBytes, Args&&... args) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;  // nothing to do, which CUDA calls an error
  // More than 48 KB, a kernel's own declared arrays among them, must be asked for.
  if (sharedBytes > 32 * 1024) {
    check(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                               cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(sharedBytes)),
          name);
  }
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = sharedBytes;
  config.stream = on.stream;
  config.attrs = &attribute;
  config.numAttrs = on.programmatic ? 1 : 0;
  check(cudaLaunchKernelEx(&config, kernel, std::forward<Args>(args)...), name);
}
#endif

}  // namespace nanovllm::cuda

// Which code runs here: an addon may hold kernels for several compute capabilities, or PTX of an old one that
// the driver translates for any newer GPU.
#include "cuda/launch.cuh"

namespace nanovllm::cuda {
namespace {
__global__ void nothing() {}
}  // namespace

int compiledArch() {
  cudaFuncAttributes attributes{};
  check(cudaFuncGetAttributes(&attributes, nothing), "looking for kernels");
  return attributes.ptxVersion;
}

}  // namespace nanovllm::cuda

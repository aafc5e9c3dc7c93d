// A CUDA graph: a step's kernels, with their arguments, as one thing to launch. Launching hundreds of kernels
// one by one costs the host more time than a small decode step costs the GPU; a graph is handed over whole.
#pragma once

#include <cuda_runtime_api.h>

#include "cuda/launch.cuh"

namespace nanovllm::cuda {

class Graph {
 public:
  /// Takes `graph`, as stream capture has recorded it.
  explicit Graph(cudaGraph_t graph) {
    const cudaError_t status = cudaGraphInstantiate(&executable_, graph, 0);
    cudaGraphDestroy(graph);
    check(status, "making a graph");
  }
  ~Graph() { cudaGraphExecDestroy(executable_); }
  Graph(const Graph&) = delete;

  void launch(cudaStream_t stream) const { check(cudaGraphLaunch(executable_, stream), "launching a graph"); }

 private:
  cudaGraphExec_t executable_ = nullptr;
};

}  // namespace nanovllm::cuda

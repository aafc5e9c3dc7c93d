// Several GPUs that compute one model: the ranks, one a GPU, exchange tensors through NCCL, NVIDIA's library
// of collective operations. What a rank calls goes into its device's stream like any kernel, and into its
// graphs.
#pragma once

#include <cuda_runtime_api.h>

#include <chrono>
#include <memory>
#include <string>

#include "tensor.h"

namespace nanovllm::cuda {

/// By what ranks find each other: one of them makes it and tells the others.
struct NcclId {
  char bytes[128];
};
/// @throws BackendError with remedies when NCCL cannot be loaded.
NcclId makeNcclId();
/// "2.28.9"
std::string ncclVersion();

/// One rank's end of a group. It belongs to one thread of JavaScript; all tensors are dense.
class Communicator {
 public:
  /// What the rank works with. The stream must outlive the communicator.
  struct Place {
    int ordinal;
    cudaStream_t stream;
    /// Device memory for one int32: what ranks add up to meet at a barrier.
    TensorView meetingPoint;
  };

  /// Begins to look for the other ranks; `ready()` tells when they are found.
  Communicator(const Place& place, const NcclId& id, int rank, int worldSize);
  /// `close()`
  ~Communicator();
  Communicator(const Communicator&) = delete;

  /// @throws BackendError when it will never be.
  bool ready() const;

  /// x = the sum of all ranks' x
  void allReduce(const TensorView& x);
  /// out[worldSize, …] = the ranks' x
  void allGather(const TensorView& out, const TensorView& x);
  /// x = rank `root`'s x
  void broadcast(const TensorView& x, int root);
  /// Returns when all ranks have come here and their streams are done. @throws BackendError when one does not
  /// come.
  void barrier();

  /// Ends what waits for other ranks, on the GPU too: work behind it goes on, with wrong numbers. Returns at
  /// once.
  void abort();
  /// Waits for the stream, and gives back what NCCL holds. Takes seconds at most: false when that was not
  /// enough for the work in the stream, which then ended with wrong numbers.
  bool close();

 private:
  struct State;

  struct ncclComm* handle(const char* what) const;
  /// Whether the stream was done within this time. @throws BackendError when a rank is known to be lost.
  bool waitForStream(std::chrono::milliseconds patience) const;

  Place place_;
  int worldSize_;
  bool isClosed_ = false;
  std::shared_ptr<State> state_;  // threads that look for ranks, or clean up, share it and may outlive this
};

}  // namespace nanovllm::cuda

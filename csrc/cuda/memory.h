// Device memory, and the two ways across the bus: host values in, results out.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <map>
#include <memory>
#include <vector>

namespace nanovllm::cuda {

/// A queue of work for the GPU, done in order.
class Stream {
 public:
  Stream() = default;
  ~Stream();
  Stream(const Stream&) = delete;

  void create();
  /// @throws BackendError when any work failed.
  void synchronize() const;
  cudaStream_t get() const { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};

/// What a device has allocated, by address. Freed on destruction.
class DeviceMemory {
 public:
  DeviceMemory() = default;
  DeviceMemory(const DeviceMemory&) = delete;
  ~DeviceMemory();

  /// Zeroed. @throws BackendError naming what was asked for and what was free.
  char* allocate(size_t bytes, cudaStream_t stream);
  /// Unknown addresses are ignored, so that freeing twice is harmless.
  void free(char* address);
  /// The sum of what was asked for.
  size_t totalBytes() const { return total_; }

 private:
  std::map<char*, size_t> pieces_;
  size_t total_ = 0;
};

/// Host memory the GPU's copy engine can reach by itself (page-locked): a copy from there runs while the
/// program goes on.
class PinnedBuffer {
 public:
  explicit PinnedBuffer(size_t bytes);
  ~PinnedBuffer();
  PinnedBuffer(const PinnedBuffer&) = delete;

  char* data() const { return data_; }
  size_t bytes() const { return bytes_; }

 private:
  char* data_ = nullptr;
  size_t bytes_ = 0;
};

/// A moment in a stream's work. Waiting for it sleeps instead of spinning, so that a waiting thread costs no
/// processor.
class Event {
 public:
  Event();
  ~Event();
  Event(const Event&) = delete;

  void record(cudaStream_t stream);
  /// @throws BackendError when work before this moment failed.
  void wait() const;

 private:
  cudaEvent_t event_ = nullptr;
};

/// Host values on their way to the device. They are copied to pinned memory at once, so that the caller may
/// change them, and from there by the stream in its own time. The memory is a ring of segments; one is used
/// again when its copies are done.
class Staging {
 public:
  void copyIn(char* target, const char* source, size_t bytes, cudaStream_t stream);

 private:
  static constexpr int kSegments = 4;
  static constexpr size_t kSegmentBytes = size_t{8} << 20;
  PinnedBuffer memory_{kSegments * kSegmentBytes};
  Event done_[kSegments];
  int segment_ = 0;
  size_t used_ = 0;
};

/// Where a result lands: pinned memory, and the moment it is there.
struct Landing {
  explicit Landing(size_t bytes) : memory(bytes) {}
  PinnedBuffer memory;
  Event arrived;
};

/// Making a landing takes longer than a decode step, so that each is kept for the next read.
class Landings {
 public:
  std::unique_ptr<Landing> take(size_t bytes);
  void giveBack(std::unique_ptr<Landing> landing);

 private:
  std::vector<std::unique_ptr<Landing>> spare_;
};

}  // namespace nanovllm::cuda

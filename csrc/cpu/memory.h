// Big blocks of zeroed memory: weights, KV cache, the activation arena, scratch.
#pragma once

#include <cstddef>
#include <map>
#include <utility>

namespace nanovllm {

/// Pages from the operating system, given back on destruction. They are zero, aligned to a cache
/// line at least, and cost no physical memory before they are touched, so a large reservation is
/// cheap. Blocks of 2 MiB and more ask for huge pages: streaming weights through 4 KiB pages would
/// spend its time in TLB misses.
class PageBlock {
 public:
  PageBlock() = default;
  /// @throws BackendError naming the bytes when the system refuses.
  explicit PageBlock(size_t bytes);
  ~PageBlock() { release(); }
  PageBlock(PageBlock&& other) noexcept { swap(other); }
  PageBlock& operator=(PageBlock&& other) noexcept {
    swap(other);
    return *this;
  }

  char* data() const { return data_; }
  size_t bytes() const { return bytes_; }

 private:
  void release();
  void swap(PageBlock& other) {
    std::swap(base_, other.base_);
    std::swap(mapped_, other.mapped_);
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
  }

  void* base_ = nullptr;
  size_t mapped_ = 0;
  char* data_ = nullptr;
  size_t bytes_ = 0;
};

/// Memory that a kernel needs while it runs. Grows to the largest request and is then reused.
class Scratch {
 public:
  /// Uninitialised; valid until the next call.
  char* reserve(size_t bytes);

 private:
  PageBlock block_;
};

/// The blocks a device owns, by address.
class Allocations {
 public:
  char* allocate(size_t bytes);
  /// Unknown addresses are ignored, so that freeing twice is harmless.
  void free(char* address);
  size_t totalBytes() const { return total_; }

 private:
  std::map<char*, PageBlock> blocks_;
  size_t total_ = 0;
};

}  // namespace nanovllm

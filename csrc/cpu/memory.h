// Zeroed memory: weights, KV cache, the activation arena, scratch.
#pragma once

#include <cstddef>
#include <map>
#include <memory>
#include <utility>

namespace nanovllm {

/// Pages from the operating system, given back on destruction. They are zero, and cost no physical
/// memory before they are touched, so a large reservation is cheap. Blocks of 2 MiB and more are made
/// of huge pages where the system has them: finding 4 KiB pages takes longer than reading them,
/// above all in a virtual machine, where each step of a page walk is a walk itself.
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

/// What a device has allocated, by address; aligned to a cache line. Small pieces are cut from shared
/// slabs, so that they lie on huge pages too: a layer's KV cache is often smaller than one.
class Allocations {
 public:
  char* allocate(size_t bytes);
  /// Unknown addresses are ignored, so that freeing twice is harmless.
  void free(char* address);
  /// The sum of what was asked for.
  size_t totalBytes() const { return total_; }

 private:
  struct Piece {
    std::shared_ptr<PageBlock> block;  // its own, or a slab that lives as long as any of its pieces
    size_t bytes;
  };
  std::map<char*, Piece> pieces_;
  std::shared_ptr<PageBlock> slab_;  // the one that pieces are being cut from
  size_t cut_ = 0;                   // how much of it is gone; never reused, so that new memory is zero
  size_t total_ = 0;
};

}  // namespace nanovllm

#include "cpu/memory.h"

#include <sys/mman.h>

#include <cstdint>

#include "error.h"

namespace nanovllm {
namespace {
constexpr size_t kHugePage = size_t{2} << 20;
}

PageBlock::PageBlock(size_t bytes) {
  if (bytes == 0) bytes = 1;
  const bool huge = bytes >= kHugePage;
  mapped_ = bytes + (huge ? kHugePage : 0);  // room to start on a huge page's boundary
  base_ = mapped_ < bytes
              ? MAP_FAILED
              : mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (base_ == MAP_FAILED) {
    base_ = nullptr;
    throw BackendError(format("Out of memory: the system refused %zu bytes (%.1f GiB).", bytes,
                              static_cast<double>(bytes) / (1 << 30)));
  }
  const uintptr_t start = reinterpret_cast<uintptr_t>(base_);
  data_ = reinterpret_cast<char*>(huge ? (start + kHugePage - 1) & ~(kHugePage - 1) : start);
  bytes_ = bytes;
#ifdef MADV_HUGEPAGE
  if (huge) madvise(data_, bytes, MADV_HUGEPAGE);  // a wish; the result does not matter
#endif
}

void PageBlock::release() {
  if (base_) munmap(base_, mapped_);
  base_ = nullptr;
}

char* Scratch::reserve(size_t bytes) {
  if (bytes > block_.bytes()) {
    block_ = PageBlock();  // first give the old one back
    block_ = PageBlock(bytes);
  }
  return block_.data();
}

char* Allocations::allocate(size_t bytes) {
  PageBlock block(bytes);
  char* const address = block.data();
  total_ += block.bytes();
  blocks_.emplace(address, std::move(block));
  return address;
}

void Allocations::free(char* address) {
  const auto found = blocks_.find(address);
  if (found == blocks_.end()) return;
  total_ -= found->second.bytes();
  blocks_.erase(found);
}

}  // namespace nanovllm

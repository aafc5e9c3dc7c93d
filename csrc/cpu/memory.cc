#include "cpu/memory.h"

#include <sys/mman.h>

#include <cstdint>

#include "error.h"

namespace nanovllm {
namespace {
constexpr size_t kHugePage = size_t{2} << 20;
/// Smaller pieces share a slab. Only what is touched of a slab costs memory.
constexpr size_t kSlabPiece = kHugePage, kSlab = 8 * kHugePage, kCacheLine = 64;

size_t roundUp(size_t bytes, size_t unit) { return (bytes + unit - 1) / unit * unit; }
}  // namespace

PageBlock::PageBlock(size_t bytes) {
  if (bytes == 0) bytes = 1;
  const bool huge = bytes >= kHugePage;
  // Room to start and end on a huge page's boundary: an incomplete one would be made of small pages.
  mapped_ = bytes + (huge ? 2 * kHugePage : 0);
  base_ = mapped_ < bytes
              ? MAP_FAILED
              : mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (base_ == MAP_FAILED) {
    base_ = nullptr;
    throw BackendError(format("Out of memory: the system refused %zu bytes (%.1f GiB).", bytes,
                              static_cast<double>(bytes) / (1 << 30)));
  }
  const uintptr_t start = reinterpret_cast<uintptr_t>(base_);
  data_ = reinterpret_cast<char*>(huge ? roundUp(start, kHugePage) : start);
  bytes_ = bytes;
#ifdef MADV_HUGEPAGE
  if (huge) madvise(data_, roundUp(bytes, kHugePage), MADV_HUGEPAGE);  // a wish; the result does not matter
#endif
}

void PageBlock::release() {
  if (base_) munmap(base_, mapped_);
  base_ = nullptr;
}

char* Scratch::reserve(size_t bytes) {
  if (bytes > block_.bytes()) {
    block_ = PageBlock();  // first give the old one back
    block_ = PageBlock(roundUp(bytes, kHugePage));
  }
  return block_.data();
}

char* Allocations::allocate(size_t bytes) {
  std::shared_ptr<PageBlock> block;
  char* address;
  if (bytes >= kSlabPiece) {
    block = std::make_shared<PageBlock>(bytes);
    address = block->data();
  } else {
    const size_t room = roundUp(bytes > 0 ? bytes : 1, kCacheLine);
    if (!slab_ || cut_ + room > slab_->bytes()) {
      slab_ = std::make_shared<PageBlock>(kSlab);
      cut_ = 0;
    }
    block = slab_;
    address = slab_->data() + cut_;
    cut_ += room;
  }
  pieces_.emplace(address, Piece{std::move(block), bytes});
  total_ += bytes;
  return address;
}

void Allocations::free(char* address) {
  const auto found = pieces_.find(address);
  if (found == pieces_.end()) return;
  total_ -= found->second.bytes;
  pieces_.erase(found);
  if (slab_.use_count() == 1) slab_.reset();  // no piece is left
}

}  // namespace nanovllm

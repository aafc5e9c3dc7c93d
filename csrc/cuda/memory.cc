#include "cuda/memory.h"

#include <algorithm>
#include <cstring>

#include "cuda/launch.cuh"

namespace nanovllm::cuda {
namespace {
constexpr double kGiB = 1 << 30;
/// Larger results (logits) are not kept: pinned memory is taken from everybody on the machine.
constexpr size_t kLargestSpare = size_t{1} << 20;
}  // namespace

Stream::~Stream() {
  if (stream_) cudaStreamDestroy(stream_);
}

void Stream::create() {
  check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "making a stream");
}

void Stream::synchronize() const { check(cudaStreamSynchronize(stream_), "work on the GPU"); }

char* DeviceMemory::allocate(size_t bytes, cudaStream_t stream) {
  void* address = nullptr;
  const size_t size = std::max<size_t>(bytes, 1);
  if (cudaMalloc(&address, size) != cudaSuccess) {
    cudaGetLastError();
    size_t free = 0, total = 0;
    cudaMemGetInfo(&free, &total);
    throw BackendError(
        format("Out of GPU memory: %zu bytes (%.2f GiB) were asked for, and %.2f of the GPU's %.2f GiB are "
               "free. Lower "
               "gpuMemoryUtilization, maxNumBatchedTokens, maxNumSeqs or maxModelLen, or end what else uses "
               "the GPU.",
               bytes, bytes / kGiB, free / kGiB, total / kGiB));
  }
  pieces_[static_cast<char*>(address)] = bytes;
  total_ += bytes;
  check(cudaMemsetAsync(address, 0, size, stream), "zeroing memory");
  return static_cast<char*>(address);
}

void DeviceMemory::free(char* address) {
  const auto found = pieces_.find(address);
  if (found == pieces_.end()) return;
  total_ -= found->second;
  pieces_.erase(found);
  cudaFree(address);
}

DeviceMemory::~DeviceMemory() {
  for (const auto& [address, bytes] : pieces_) cudaFree(address);
}

PinnedBuffer::PinnedBuffer(size_t bytes) : bytes_(bytes) {
  void* data = nullptr;
  check(cudaMallocHost(&data, std::max<size_t>(bytes, 1)), "allocating page-locked host memory");
  data_ = static_cast<char*>(data);
}

PinnedBuffer::~PinnedBuffer() { cudaFreeHost(data_); }

Event::Event() {
  check(cudaEventCreateWithFlags(&event_, cudaEventBlockingSync | cudaEventDisableTiming),
        "creating an event");
}

Event::~Event() { cudaEventDestroy(event_); }

void Event::record(cudaStream_t stream) { check(cudaEventRecord(event_, stream), "recording an event"); }

void Event::wait() const { check(cudaEventSynchronize(event_), "work on the GPU"); }

void Staging::copyIn(char* target, const char* source, size_t bytes, cudaStream_t stream) {
  while (bytes > 0) {
    if (used_ == kSegmentBytes) {
      done_[segment_].record(stream);
      segment_ = (segment_ + 1) % kSegments;
      done_[segment_].wait();  // at once for an event that was never recorded
      used_ = 0;
    }
    const size_t part = std::min(bytes, kSegmentBytes - used_);
    char* const staged = memory_.data() + segment_ * kSegmentBytes + used_;
    memcpy(staged, source, part);
    check(cudaMemcpyAsync(target, staged, part, cudaMemcpyHostToDevice, stream), "copying to the GPU");
    used_ += part;
    target += part;
    source += part;
    bytes -= part;
  }
}

std::unique_ptr<Landing> Landings::take(size_t bytes) {
  for (auto& landing : spare_) {
    if (landing->memory.bytes() < bytes) continue;
    std::swap(landing, spare_.back());
    auto taken = std::move(spare_.back());
    spare_.pop_back();
    return taken;
  }
  return std::make_unique<Landing>(std::max<size_t>(bytes, 4096));
}

void Landings::giveBack(std::unique_ptr<Landing> landing) {
  if (landing->memory.bytes() <= kLargestSpare) spare_.push_back(std::move(landing));
}

}  // namespace nanovllm::cuda

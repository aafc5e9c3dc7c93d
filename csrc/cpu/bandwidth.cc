#include "cpu/bandwidth.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstring>

#include "cpu/memory.h"

namespace nanovllm {
namespace {

constexpr size_t kLine = 64, kInterleave = 256 << 10, kAhead = 4096;

/// Reads whole cache lines of [begin, end); the sum keeps the compiler from leaving the reads out.
template <bool kPrefetch>
uint64_t readLines(const char* begin, const char* end) {
  typedef uint64_t Lane __attribute__((vector_size(16)));
  Lane sums[4] = {};
  for (const char* p = begin; p < end; p += kLine) {
    if (kPrefetch) __builtin_prefetch(p + kAhead);
    Lane parts[4];
    memcpy(parts, p, kLine);
    for (int i = 0; i < 4; i++) sums[i] += parts[i];
  }
  const Lane sum = sums[0] + sums[1] + sums[2] + sums[3];
  return sum[0] + sum[1];
}

}  // namespace

double readBandwidth(ThreadPool& pool, size_t bytes, ReadPattern pattern, double seconds) {
  using Clock = std::chrono::steady_clock;
  bytes = std::max(bytes / kInterleave, size_t{1}) * kInterleave;
  const PageBlock block(bytes);
  memset(block.data(), 1, bytes);  // real pages, not the shared zero page
  const size_t threads = static_cast<size_t>(pool.threads());
  const size_t part =
      pattern == ReadPattern::kInterleaved ? kInterleave : (bytes / threads + kLine) / kLine * kLine;
  const int tasks = static_cast<int>((bytes + part - 1) / part);
  std::atomic<uint64_t> sink{0};
  double best = 0;
  const auto stop = Clock::now() + std::chrono::duration<double>(seconds);
  do {
    const auto start = Clock::now();
    pool.run(tasks, [&](int task, int) {
      const char* const begin = block.data() + task * part;
      const char* const end = std::min<const char*>(begin + part, block.data() + bytes);
      sink += pattern == ReadPattern::kPrefetch ? readLines<true>(begin, end) : readLines<false>(begin, end);
    });
    const std::chrono::duration<double> took = Clock::now() - start;
    best = std::max(best, static_cast<double>(bytes) / took.count());
  } while (Clock::now() < stop);
  return best;
}

}  // namespace nanovllm

// How fast this machine reads memory: the bound that decoding is measured against.
#pragma once

#include <cstddef>

#include "cpu/thread_pool.h"

namespace nanovllm {

enum class ReadPattern {
  kHalves,       // each thread reads its own contiguous part
  kInterleaved,  // threads take turns, 256 KiB at a time
  kPrefetch,     // contiguous parts, with software prefetch running ahead
};

/// Best rate in bytes a second of reading `bytes` of memory again and again for `seconds`, with all threads.
double readBandwidth(ThreadPool& pool, size_t bytes, ReadPattern pattern, double seconds);

}  // namespace nanovllm

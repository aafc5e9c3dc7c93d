#include "cpu/thread_pool.h"

#include <chrono>

namespace nanovllm {
namespace {

/// How long an idle worker stays awake. Longer than the gap between two kernels of a step, shorter
/// than anyone would notice on a busy machine.
constexpr auto kSpin = std::chrono::microseconds(200);

/// A ticket no task can be claimed from: the job's fields are being written.
constexpr uint64_t kClosed = 0xffffffff;
uint32_t jobOf(uint64_t ticket) { return static_cast<uint32_t>(ticket >> 32); }
uint32_t taskOf(uint64_t ticket) { return static_cast<uint32_t>(ticket); }

void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

/// Spins until `ready()`, or false when the time is up.
template <class Ready>
bool spinUntil(const Ready& ready) {
  const auto end = std::chrono::steady_clock::now() + kSpin;
  do {
    for (int i = 0; i < 32; i++) {
      if (ready()) return true;
      relax();
    }
  } while (std::chrono::steady_clock::now() < end);
  return ready();
}

}  // namespace

ThreadPool::ThreadPool(int threads) : ticket_(kClosed) {
  for (int slot = 1; slot < threads; slot++) workers_.emplace_back([this, slot] { workerLoop(slot); });
}

ThreadPool::~ThreadPool() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stop_ = true;
  }
  wake_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::runJob(int tasks, Call call, const void* body) {
  const uint64_t job = static_cast<uint64_t>(jobOf(ticket_.load(std::memory_order_relaxed)) + 1) << 32;
  ticket_.store(job | kClosed);
  tasks_ = tasks;
  call_ = call;
  body_ = body;
  done_ = 0;
  ticket_.store(job);
  // A worker counts itself as sleeping before it looks at the ticket a last time, and both are
  // sequentially consistent: either it sees this ticket or it is seen here.
  if (sleeping_ > 0) {
    std::lock_guard<std::mutex> lock(mutex_);
    wake_.notify_all();
  }
  work(0);
  const auto finished = [&] { return done_.load(std::memory_order_acquire) == tasks; };
  while (!spinUntil(finished)) std::this_thread::yield();
}

void ThreadPool::work(int slot) {
  uint64_t ticket = ticket_.load(std::memory_order_acquire);
  while (taskOf(ticket) != kClosed) {
    const int tasks = tasks_.load(std::memory_order_relaxed);
    const Call call = call_.load(std::memory_order_relaxed);
    const void* const body = body_.load(std::memory_order_relaxed);
    if (taskOf(ticket) >= static_cast<uint32_t>(tasks)) return;
    // On failure `ticket` is reloaded: another thread took the task, or another job has begun.
    if (!ticket_.compare_exchange_weak(ticket, ticket + 1, std::memory_order_acq_rel)) continue;
    call(body, static_cast<int>(taskOf(ticket)), slot);
    done_.fetch_add(1, std::memory_order_release);
    ticket = ticket_.load(std::memory_order_acquire);
  }
}

void ThreadPool::workerLoop(int slot) {
  uint32_t seen = 0;
  const auto called = [&] {
    const uint64_t ticket = ticket_.load();
    return stop_.load() || (taskOf(ticket) != kClosed && jobOf(ticket) != seen);
  };
  while (true) {
    if (!spinUntil(called)) {
      std::unique_lock<std::mutex> lock(mutex_);
      sleeping_++;
      wake_.wait(lock, called);
      sleeping_--;
    }
    if (stop_) return;
    const uint64_t ticket = ticket_.load();
    if (taskOf(ticket) == kClosed) continue;  // the next job is already being written
    seen = jobOf(ticket);
    work(slot);
  }
}

}  // namespace nanovllm

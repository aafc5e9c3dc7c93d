// A pool for jobs that take microseconds: a decode step of a small model makes hundreds of them.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

#include "tensor.h"

namespace nanovllm {

/// Runs the tasks of one job at a time on `threads` threads, the calling one among them.
///
/// Workers spin for a moment after each job, because the next one usually follows within
/// microseconds and waking a sleeping thread takes longer than many kernels; then they sleep.
/// Tasks are claimed one by one, so a thread the system has descheduled delays only the task it
/// holds, never the whole job: the caller waits for tasks, not for threads.
class ThreadPool {
 public:
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  NANO_INLINE int threads() const { return static_cast<int>(workers_.size()) + 1; }

  /// Calls `body(task, slot)` for every task in [0, tasks) and returns when all are done. `slot` in
  /// [0, threads) is different for tasks that run at the same time: an index into scratch memory.
  /// Bodies must not throw.
  template <class Body>
  void run(int tasks, const Body& body) {
    if (tasks <= 1 || workers_.empty()) {
      for (int task = 0; task < tasks; task++) body(task, 0);
      return;
    }
    const auto call = [](const void* erased, int task, int slot) {
      (*static_cast<const Body*>(erased))(task, slot);
    };
    runJob(tasks, call, &body);
  }

 private:
  using Call = void (*)(const void* body, int task, int slot);

  void runJob(int tasks, Call call, const void* body);
  void work(int slot);
  void workerLoop(int slot);

  /// Upper half: the job's number. Lower half: the next task to claim. One word, so that a claim
  /// can only succeed for the job whose fields the claimant has read.
  std::atomic<uint64_t> ticket_;
  std::atomic<int> tasks_{0};
  std::atomic<Call> call_{nullptr};
  std::atomic<const void*> body_{nullptr};
  alignas(64) std::atomic<int> done_{0};

  alignas(64) std::atomic<int> sleeping_{0};
  std::atomic<bool> stop_{false};
  std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<std::thread> workers_;
};

}  // namespace nanovllm

// A few threads that wait for one task at a time.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

namespace shoal {

// Threads spin for a moment after a task, then sleep: an idle pool uses no processor time.
class ThreadPool {
 public:
  // The caller of `run` is one of the threads. Throws std::invalid_argument.
  explicit ThreadPool(int num_threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int num_threads() const { return num_threads_; }

  // Runs `task` on the caller and on every thread that comes in time, and returns when all of those are through. The
  // task must share out its work itself. Nobody waits for a thread that is slow to wake; a second caller at the same
  // time, or one in a forked child where the threads do not exist, works alone.
  void run(void (*task)(void*), void* context);

 private:
  void work();
  bool has_task(uint64_t state, uint64_t last_epoch) const;
  void wait_for_task(uint64_t last_epoch);

  const int num_threads_;
  const pid_t owner_;
  std::atomic<uint64_t> state_{0};  // threads at work, whether more may join, and the task's number; see the .cpp
  std::atomic<bool> stopped_{false};
  std::atomic<int> sleepers_{0};
  void (*task_)(void*) = nullptr;
  void* context_ = nullptr;
  std::mutex caller_mutex_;
  std::mutex sleep_mutex_;
  std::condition_variable wake_;
  std::vector<std::thread>* threads_;  // leaked in a forked child, where they cannot be joined
};

}  // namespace shoal

// A few threads that wait for one task at a time.
#pragma once

#include <sys/types.h>

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
  class Workers;

  const int num_threads_;
  const pid_t owner_;
  Workers* workers_;  // leaked in a forked child: destroying a condition variable would wait for absent threads
};

}  // namespace shoal

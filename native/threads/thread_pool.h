// A few threads that share the items of one task at a time.
#pragma once

#include <sys/types.h>

namespace shoal {

// Threads spin for a moment after a task, then sleep, so an idle pool uses no processor time. Tasks that follow within
// that moment, such as the layers of a step, find them awake.
class ThreadPool {
 public:
  // The caller of `each` is one of the threads. Throws std::invalid_argument.
  explicit ThreadPool(int num_threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int num_threads() const { return num_threads_; }

  // Calls work(item) for every item in [0, count), in any order, on the caller and on every thread that arrives in
  // time, and returns when all are done. Nobody waits for a thread that is slow to wake. A second caller at the same
  // time, or one in a forked child without the threads, works alone. `work` must not throw.
  template <typename Work>
  void each(int count, const Work& work) {
    each(count, [](const void* context, int item) { (*static_cast<const Work*>(context))(item); }, &work);
  }

 private:
  class Workers;
  using Task = void (*)(const void* context, int item);

  void each(int count, Task task, const void* context);

  const int num_threads_;
  const pid_t owner_;
  Workers* workers_;  // leaked in a forked child: destroying a condition variable would wait for absent threads
};

}  // namespace shoal

// Works a thread pool hard: many threads, many small tasks, several callers, tasks within tasks, forks. Ends with 1 and
// a line that says what went wrong, or with 0.

#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

#include "threads/thread_pool.h"

using shoal::ThreadPool;

namespace {

constexpr int kMostItems = 41;

[[noreturn]] void fail(const char* what, int num_threads) {
  std::printf("%s, %d threads\n", what, num_threads);
  std::fflush(stdout);
  std::_Exit(1);
}

// Tasks of 0 to 40 items, one after the other: each item is run once, and is over when `each` returns.
void run_tasks(ThreadPool& pool, int count, const char* what) {
  int runs[kMostItems];  // not atomic: `each` must order what items write before its return
  for (int task = 0; task < count; ++task) {
    const int num_items = task % kMostItems;
    for (int& run : runs) run = 0;
    pool.each(num_items, [&](int item) { runs[item] += task + 1; });
    for (int item = 0; item < kMostItems; ++item)
      if (runs[item] != (item < num_items ? task + 1 : 0)) fail(what, pool.num_threads());
  }
}

void several_callers(ThreadPool& pool, int count) {
  std::vector<std::thread> callers;
  for (int i = 0; i < 3; ++i) callers.emplace_back([&] { run_tasks(pool, count, "several callers"); });
  for (std::thread& caller : callers) caller.join();
}

// Items that are tasks of the same pool themselves.
void tasks_within_tasks(ThreadPool& pool, int count) {
  for (int task = 0; task < count; ++task) {
    std::atomic<int> total{0};
    pool.each(7, [&](int) {
      int inner[5] = {};
      pool.each(5, [&](int item) { inner[item] += 1; });
      for (const int one : inner) total += one;
    });
    if (total != 35) fail("a task within a task", pool.num_threads());
  }
}

void forks(ThreadPool& pool, int count) {
  for (int i = 0; i < count; ++i) {
    const pid_t child = fork();
    if (child == 0) {
      run_tasks(pool, 100, "in a forked child");
      std::_Exit(0);
    }
    run_tasks(pool, 100, "after a fork");
    int status = 0;
    if (waitpid(child, &status, 0) != child || status != 0) fail("a forked child", pool.num_threads());
  }
}

void short_lives(int num_threads, int count) {
  for (int i = 0; i < count; ++i) {
    ThreadPool pool(num_threads);
    if (i % 2 == 0) run_tasks(pool, 3, "a short life");
  }
}

}  // namespace

int main() {
  for (const int num_threads : {1, 2, 3, 8, 33}) {
    ThreadPool pool(num_threads);
    const int count = num_threads > 8 ? 500 : 4000;
    run_tasks(pool, count, "one caller");
    several_callers(pool, count / 4);
    tasks_within_tasks(pool, count / 8);
#if !defined(__SANITIZE_THREAD__)  // which cannot follow a process with threads into its child
    forks(pool, 10);
#endif
    short_lives(num_threads, 50);
  }
  return 0;
}

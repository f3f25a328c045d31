#include "thread_pool.h"

#include <unistd.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <stdexcept>
#include <thread>
#include <vector>

#include "pause.h"

namespace shoal {

namespace {

constexpr uint64_t kLeftMask = 0xffffffff;  // items that nobody has taken yet
constexpr uint64_t kTaskUnit = kLeftMask + 1;
constexpr int kMaxThreads = 1024;
constexpr std::chrono::microseconds kSpin(50);  // about what waking a sleeping thread costs

}  // namespace

// The threads other than the caller, and what they share with it.
class ThreadPool::Workers {
 public:
  explicit Workers(int count) {
    for (int i = 0; i < count; ++i) threads_.emplace_back([this] { work(); });
  }

  ~Workers() {
    {
      std::lock_guard<std::mutex> lock(sleep_mutex_);
      stopped_ = true;
    }
    wake_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }

  // Returns whether it ran the task; false if another caller's is running.
  bool run(int count, Task task, const void* context) {
    std::unique_lock<std::mutex> lock(caller_mutex_, std::try_to_lock);
    if (!lock.owns_lock()) return false;
    open(count, task, context);
    take_items();
    for (int spins = 0; done_.load(std::memory_order_acquire) < count; ++spins) wait_briefly(spins);
    return true;
  }

 private:
  // The task's number and the items left are one word, so that a late thread cannot take an item of one task and run it
  // as another's.
  void open(int count, Task task, const void* context) {
    task_ = task;
    context_ = context;
    count_ = count;
    done_.store(0, std::memory_order_relaxed);
    const uint64_t number = state_.load(std::memory_order_relaxed) / kTaskUnit + 1;
    state_.store(number * kTaskUnit | uint64_t(count));
    if (sleepers_.load() == 0) return;
    std::lock_guard<std::mutex> lock(sleep_mutex_);
    wake_.notify_all();
  }

  void take_items() {
    uint64_t state = state_.load(std::memory_order_acquire);
    while ((state & kLeftMask) != 0) {
      if (!state_.compare_exchange_weak(state, state - 1, std::memory_order_acq_rel)) continue;
      task_(context_, count_ - int(state & kLeftMask));
      done_.fetch_add(1, std::memory_order_acq_rel);
      state = state_.load(std::memory_order_acquire);
    }
  }

  void work() {
    while (true) {
      wait_for_items();
      if (stopped_) return;
      take_items();
    }
  }

  bool has_items() const { return (state_.load() & kLeftMask) != 0; }

  void wait_for_items() {
    const auto ready = [&] { return stopped_ || has_items(); };
    const auto end = std::chrono::steady_clock::now() + kSpin;
    for (int spins = 0; std::chrono::steady_clock::now() < end; ++spins) {
      if (ready()) return;
      wait_briefly(spins);
    }
    std::unique_lock<std::mutex> lock(sleep_mutex_);
    ++sleepers_;
    wake_.wait(lock, ready);
    --sleepers_;
  }

  alignas(64) std::atomic<uint64_t> state_{0};
  alignas(64) std::atomic<int> done_{0};
  std::atomic<bool> stopped_{false};
  std::atomic<int> sleepers_{0};
  Task task_ = nullptr;
  const void* context_ = nullptr;
  int count_ = 0;
  std::mutex caller_mutex_;
  std::mutex sleep_mutex_;
  std::condition_variable wake_;
  std::vector<std::thread> threads_;
};

ThreadPool::ThreadPool(int num_threads) : num_threads_(num_threads), owner_(getpid()) {
  if (num_threads < 1 || num_threads > kMaxThreads)
    throw std::invalid_argument("num_threads must be within 1 and 1024");
  workers_ = new Workers(num_threads - 1);
}

ThreadPool::~ThreadPool() {
  if (getpid() == owner_) delete workers_;
}

void ThreadPool::each(int count, Task task, const void* context) {
  const bool is_alone = num_threads_ == 1 || count == 1 || getpid() != owner_;
  if (!is_alone && workers_->run(count, task, context)) return;
  for (int item = 0; item < count; ++item) task(context, item);
}

}  // namespace shoal

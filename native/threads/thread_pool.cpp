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

constexpr uint64_t kCountMask = 0xffff;  // threads at work on the open task, the caller excluded
constexpr uint64_t kOpen = 1 << 16;      // threads may still join
constexpr uint64_t kEpochUnit = 1 << 17;
constexpr int kMaxThreads = 1024;
constexpr std::chrono::microseconds kSpin(30);  // about what waking a sleeping thread costs

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

  void run(void (*task)(void*), void* context) {
    std::unique_lock<std::mutex> lock(caller_mutex_, std::try_to_lock);
    if (!lock.owns_lock()) return task(context);
    open(task, context);
    task(context);
    state_ &= ~kOpen;
    for (int spins = 0; (state_.load(std::memory_order_acquire) & kCountMask) != 0; ++spins) wait_briefly(spins);
  }

 private:
  void open(void (*task)(void*), void* context) {
    task_ = task;
    context_ = context;
    state_ = (epoch_of(state_) + 1) * kEpochUnit | kOpen;
    if (sleepers_ == 0) return;
    std::lock_guard<std::mutex> lock(sleep_mutex_);
    wake_.notify_all();
  }

  void work() {
    uint64_t last_epoch = 0;
    while (true) {
      wait_for_task(last_epoch);
      if (stopped_) return;
      uint64_t state = state_;
      if (!is_new(state, last_epoch) || !state_.compare_exchange_strong(state, state + 1)) continue;
      last_epoch = epoch_of(state);
      task_(context_);
      state_ -= 1;
    }
  }

  void wait_for_task(uint64_t last_epoch) {
    const auto ready = [&] { return stopped_ || is_new(state_, last_epoch); };
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

  static uint64_t epoch_of(uint64_t state) { return state / kEpochUnit; }
  static bool is_new(uint64_t state, uint64_t last_epoch) {
    return (state & kOpen) != 0 && epoch_of(state) != last_epoch;
  }

  std::atomic<uint64_t> state_{0};  // threads at work, whether more may join, and the task's number
  std::atomic<bool> stopped_{false};
  std::atomic<int> sleepers_{0};
  void (*task_)(void*) = nullptr;
  void* context_ = nullptr;
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

void ThreadPool::run(void (*task)(void*), void* context) {
  if (num_threads_ == 1 || getpid() != owner_) return task(context);
  workers_->run(task, context);
}

}  // namespace shoal

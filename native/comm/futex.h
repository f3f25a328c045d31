// Sleeping until another process that maps the same memory changes a word, and how long to stay awake before that.
#pragma once

#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <climits>
#include <cstdint>

namespace shoal {

using Clock = std::chrono::steady_clock;

constexpr auto kSpin = std::chrono::microseconds(20);    // a hop between cores takes 1 to 4 us
constexpr auto kYield = std::chrono::microseconds(100);  // beyond this a sleeping peer costs less than a busy one

inline void futex_wait(std::atomic<std::uint32_t>& word, std::uint32_t expected, Clock::duration limit) {
  const auto ns = std::chrono::duration_cast<std::chrono::nanoseconds>(limit).count();
  timespec timeout{static_cast<time_t>(ns / 1'000'000'000), static_cast<long>(ns % 1'000'000'000)};
  syscall(SYS_futex, reinterpret_cast<std::uint32_t*>(&word), FUTEX_WAIT, expected, &timeout, nullptr, 0);
}

inline void futex_wake(std::atomic<std::uint32_t>& word) {
  syscall(SYS_futex, reinterpret_cast<std::uint32_t*>(&word), FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
}

inline Clock::time_point deadline_in(double seconds) {
  const double bounded = std::clamp(seconds, 0.0, 1e6);
  return Clock::now() + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(bounded));
}

}  // namespace shoal

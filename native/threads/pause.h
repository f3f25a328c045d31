// What a thread does for a moment while it waits for another.
#pragma once

#include <sched.h>

namespace shoal {

inline void pause_processor() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Pauses for the first spins, then yields to other threads.
inline void wait_briefly(int spins) {
  constexpr int kPauses = 64;  // about 2 us
  if (spins < kPauses) {
    pause_processor();
  } else {
    sched_yield();
  }
}

}  // namespace shoal

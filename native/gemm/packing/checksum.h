// A checksum of kept weights: not against malice, but against every change of a single word, and at the speed of memory.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../../threads/thread_pool.h"

namespace shoal {

// The same for any number of threads. Two contents of one length that differ in one 64-bit word never have the same.
uint64_t checksum(ThreadPool& pool, const uint8_t* bytes, size_t num_bytes);

}  // namespace shoal

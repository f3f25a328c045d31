// A checksum of kept weights. It does not protect against malice, but detects every change of a single word, at the
// speed of memory.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../../threads/thread_pool.h"

namespace shoal {

// Independent of the number of threads. Two contents of equal length that differ in one 64-bit word always have
// different checksums.
uint64_t checksum(ThreadPool& pool, const uint8_t* bytes, size_t num_bytes);

}  // namespace shoal

#include "checksum.h"

#include <algorithm>
#include <cstring>
#include <vector>

namespace shoal {

namespace {

constexpr size_t kChunkBytes = 1 << 20;
constexpr int kWords = 8;  // that are mixed independently of each other, so that no multiplication waits for another
constexpr size_t kStepBytes = kWords * sizeof(uint64_t);
constexpr uint64_t kOdd = 0x9e3779b97f4a7c15;  // 2**64 over the golden ratio

// Takes every 64-bit number to another one: a difference never gets lost.
inline uint64_t mixed(uint64_t x) {
  x *= kOdd;
  return x ^ x >> 32;
}

inline void add_step(uint64_t state[kWords], const uint8_t* bytes) {
  for (int i = 0; i < kWords; ++i) {
    uint64_t word;
    std::memcpy(&word, bytes + i * sizeof word, sizeof word);
    state[i] = mixed(state[i] ^ word);
  }
}

uint64_t chunk_checksum(const uint8_t* bytes, size_t num_bytes) {
  uint64_t state[kWords];
  for (int i = 0; i < kWords; ++i) state[i] = kOdd * (i + 1);
  size_t at = 0;
  for (; at + kStepBytes <= num_bytes; at += kStepBytes) add_step(state, bytes + at);
  if (at < num_bytes) {
    uint8_t rest[kStepBytes] = {};
    std::memcpy(rest, bytes + at, num_bytes - at);
    add_step(state, rest);
  }
  uint64_t sum = num_bytes;
  for (const uint64_t one : state) sum = mixed(sum ^ one);
  return sum;
}

}  // namespace

uint64_t checksum(ThreadPool& pool, const uint8_t* bytes, size_t num_bytes) {
  std::vector<uint64_t> chunks((num_bytes + kChunkBytes - 1) / kChunkBytes);
  pool.each(int(chunks.size()), [&](int i) {
    const size_t start = i * kChunkBytes;
    chunks[i] = chunk_checksum(bytes + start, std::min(kChunkBytes, num_bytes - start));
  });
  uint64_t sum = num_bytes;
  for (const uint64_t chunk : chunks) sum = mixed(sum ^ chunk);
  return sum;
}

}  // namespace shoal

// The memory that the ranks of a group share: same layout as src/shoal/comm/groups/group_memory.py, which says how it is used.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace shoal {

constexpr int kMaxRanks = 16;
constexpr std::size_t kGroupHeaderBytes = 4096;
constexpr std::size_t kChunkBytes = 128 << 10;
constexpr std::size_t kSlotBytes = kChunkBytes + kChunkBytes / 2;
constexpr std::size_t kSegmentFloats = 16;

enum class Operation : std::uint32_t { kSumAtOnce = 1, kSumInSegments = 2, kGather = 3, kBroadcast = 4 };

enum class Failure : int { kNone = 0, kDead = 1, kLate = 2, kLeft = 3, kMismatch = 4, kClosed = 5 };

struct Call {
  std::uint64_t num_bytes;
  Operation operation;
  std::uint32_t detail;

  bool operator==(const Call& other) const {
    return num_bytes == other.num_bytes && operation == other.operation && detail == other.detail;
  }
};

// Written by its own rank only, except for `event` and `sleepers`. A peer reads `generation` and a call only after the
// step that follows them.
struct RankState {
  alignas(64) std::atomic<std::uint64_t> step;   // rounds published
  std::uint64_t generation;
  Call calls[2];                                 // the latest two
  alignas(64) std::atomic<std::uint32_t> event;  // futex: changes when this rank publishes while somebody sleeps
  std::atomic<std::uint32_t> sleepers;
  alignas(64) std::atomic<std::uint32_t> closed;
  std::atomic<std::uint32_t> lost;               // 1 + the rank whose loss made this one leave
  std::atomic<std::int32_t> pid;                 // 0: has not joined
  alignas(64) char unused[64];
};
static_assert(sizeof(RankState) == 256);
static_assert(sizeof(RankState) * kMaxRanks <= kGroupHeaderBytes);
static_assert(offsetof(RankState, calls) == 16 && offsetof(RankState, event) == 64 && offsetof(RankState, pid) == 136);
static_assert(std::atomic<std::uint64_t>::is_always_lock_free);

}  // namespace shoal

// A sum is taken in rank order, whichever way it is computed, so that its bits depend on nothing else:
// at once: every rank writes its tensor and adds up all of them; a byte goes to each peer once, in one round.
// In segments: chunk by chunk, each rank adds up its segment of the chunk and hands the result on. A round carries what
// the others need of one chunk, and the sums of the chunk before.

#include "group_sum.h"

#include <algorithm>
#include <array>
#include <cstring>

namespace shoal {
namespace {

constexpr std::size_t kChunkFloats = kChunkBytes / sizeof(float);
constexpr std::size_t kSlotFloats = kSlotBytes / sizeof(float);

using Parts = std::array<const float*, kMaxRanks>;

// The floats [first, last) of a chunk that a rank sums.
struct Segment {
  Segment(std::size_t num_floats, int rank, int size) {
    const std::size_t atoms = (num_floats + kSegmentFloats * size - 1) / (kSegmentFloats * size);
    first = std::min(num_floats, rank * atoms * kSegmentFloats);
    last = std::min(num_floats, (rank + 1) * atoms * kSegmentFloats);
  }
  std::size_t count() const { return last - first; }

  std::size_t first;
  std::size_t last;
};

// out = parts[0] + parts[1] + ..., from left to right; also to `copy` if there is one. `out` may be one of the parts.
void sum(const Parts& parts, int num_parts, std::size_t count, float* out, float* copy) {
  constexpr std::size_t kBlock = 512;
  alignas(64) float total[kBlock];
  for (std::size_t start = 0; start < count; start += kBlock) {
    const std::size_t length = std::min(kBlock, count - start);
    const float* left = parts[0] + start;
    const float* right = parts[1] + start;
    for (std::size_t i = 0; i < length; ++i) total[i] = left[i] + right[i];
    for (int part = 2; part < num_parts; ++part) {
      const float* more = parts[part] + start;
      for (std::size_t i = 0; i < length; ++i) total[i] += more[i];
    }
    std::memcpy(out + start, total, length * sizeof(float));
    if (copy != nullptr) std::memcpy(copy + start, total, length * sizeof(float));
  }
}

Failed sum_at_once(GroupMember& group, float* x, std::size_t count) {
  std::size_t start = 0;
  do {  // a sum of nothing takes a round too: the ranks meet
    const std::size_t length = std::min(kSlotFloats, count - start);
    std::memcpy(group.next_slot(), x + start, length * sizeof(float));
    if (const Failed failed = group.round()) return failed;
    Parts parts{};
    for (int rank = 0; rank < group.size(); ++rank) parts[rank] = reinterpret_cast<const float*>(group.slot(rank));
    sum(parts, group.size(), length, x + start, nullptr);
    start += length;
  } while (start < count);
  return {};
}

// What the others need of a chunk, into this rank's next slot.
void contribute(const GroupMember& group, const float* chunk, std::size_t count) {
  const Segment mine(count, group.rank(), group.size());
  auto* slot = reinterpret_cast<float*>(group.next_slot());
  std::memcpy(slot, chunk, mine.first * sizeof(float));
  std::memcpy(slot + mine.last, chunk + mine.last, (count - mine.last) * sizeof(float));
}

void sum_own_segment(const GroupMember& group, float* chunk, std::size_t count) {
  const Segment mine(count, group.rank(), group.size());
  Parts parts{};
  for (int rank = 0; rank < group.size(); ++rank)
    parts[rank] = (rank == group.rank() ? chunk : reinterpret_cast<const float*>(group.slot(rank))) + mine.first;
  sum(parts, group.size(), mine.count(), chunk + mine.first, reinterpret_cast<float*>(group.next_slot() + kChunkBytes));
}

void collect_sums(const GroupMember& group, float* chunk, std::size_t count) {
  for (int rank = 0; rank < group.size(); ++rank) {
    const Segment theirs(count, rank, group.size());
    if (rank != group.rank())
      std::memcpy(chunk + theirs.first, group.slot(rank) + kChunkBytes, theirs.count() * sizeof(float));
  }
}

Failed sum_in_segments(GroupMember& group, float* x, std::size_t count) {
  const std::size_t num_chunks = std::max<std::size_t>(1, (count + kChunkFloats - 1) / kChunkFloats);
  const auto length = [&](std::size_t chunk) { return std::min(kChunkFloats, count - chunk * kChunkFloats); };
  for (std::size_t chunk = 0; chunk <= num_chunks; ++chunk) {
    float* coming = x + chunk * kChunkFloats;
    if (chunk < num_chunks) contribute(group, coming, length(chunk));
    if (const Failed failed = group.round()) return failed;
    if (chunk > 0) collect_sums(group, coming - kChunkFloats, length(chunk - 1));
    if (chunk < num_chunks) sum_own_segment(group, coming, length(chunk));
  }
  return {};
}

}  // namespace

Failed sum_over_ranks(GroupMember& group, float* x, std::size_t count, bool in_segments, double timeout_s) {
  const Call call{count * sizeof(float), in_segments ? Operation::kSumInSegments : Operation::kSumAtOnce, 0};
  return run_call(group, call, timeout_s, [&] {
    if (group.size() == 1) return Failed{};
    return in_segments ? sum_in_segments(group, x, count) : sum_at_once(group, x, count);
  });
}

}  // namespace shoal

// Sums, gathers and broadcasts over the ranks of a group, each a few rounds (group_memory.py says what a round is).
//
// A sum is taken in rank order, whichever way it is computed, so that its bits depend on nothing else:
// at once: every rank writes its tensor and adds up all of them; a byte goes to each peer once, in one round.
// In segments: chunk by chunk, each rank adds up its segment of the chunk and hands the result on. A round carries what
// the others need of one chunk, and the sums of the chunk before.

#include "../bindings.h"
#include "buffer_view.h"
#include "group_member.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <optional>
#include <stdexcept>

namespace nb = nanobind;
using shoal::BufferView;
using shoal::Call;
using shoal::Failed;
using shoal::GroupMember;
using shoal::kChunkBytes;
using shoal::kMaxRanks;
using shoal::kSlotBytes;
using shoal::Operation;

namespace {

constexpr std::size_t kChunkFloats = kChunkBytes / sizeof(float);
constexpr std::size_t kSlotFloats = kSlotBytes / sizeof(float);

using Parts = std::array<const float*, kMaxRanks>;

// The floats [first, last) of a chunk that a rank sums.
struct Segment {
  Segment(std::size_t num_floats, int rank, int size) {
    const std::size_t atoms = (num_floats + shoal::kSegmentFloats * size - 1) / (shoal::kSegmentFloats * size);
    first = std::min(num_floats, rank * atoms * shoal::kSegmentFloats);
    last = std::min(num_floats, (rank + 1) * atoms * shoal::kSegmentFloats);
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

struct Piece {
  char* data;
  std::size_t size;

  std::size_t left(std::size_t start) const { return start < size ? std::min(kSlotBytes, size - start) : 0; }
};

Failed gather(GroupMember& group, const Piece& mine, const std::array<Piece, kMaxRanks>& out) {
  std::size_t largest = 0;
  for (int rank = 0; rank < group.size(); ++rank) largest = std::max(largest, out[rank].size);
  std::size_t start = 0;
  do {
    if (mine.left(start) > 0) std::memcpy(group.next_slot(), mine.data + start, mine.left(start));
    if (const Failed failed = group.round()) return failed;
    for (int rank = 0; rank < group.size(); ++rank) {
      const std::size_t length = out[rank].left(start);
      if (length > 0) std::memcpy(out[rank].data + start, group.slot(rank), length);
    }
    start += kSlotBytes;
  } while (start < largest);
  return {};
}

Failed broadcast(GroupMember& group, const Piece& piece, int root) {
  std::size_t start = 0;
  do {
    const std::size_t length = piece.left(start);
    if (group.rank() == root) std::memcpy(group.next_slot(), piece.data + start, length);
    if (const Failed failed = group.round()) return failed;
    if (group.rank() != root) std::memcpy(piece.data + start, group.slot(root), length);
    start += kSlotBytes;
  } while (start < piece.size);
  return {};
}

// 32 bits that differ where two ranks do not agree on the sizes; FNV-1a's constants, a size at a time.
std::uint32_t sizes_digest(const std::array<Piece, kMaxRanks>& pieces, int count) {
  std::uint32_t digest = 0x811C9DC5;
  for (int rank = 0; rank < count; ++rank)
    digest = (digest ^ static_cast<std::uint32_t>(pieces[rank].size)) * 0x01000193;
  return digest;
}

// Runs a call without the GIL. None, or (failure, rank) for Python. An interrupted rank has left its group.
template <typename Run>
nb::object run_call(GroupMember& group, const Call& call, double timeout_s, const Run& run) {
  Failed failed;
  {
    const nb::gil_scoped_release released;
    try {
      failed = group.begin(call, timeout_s);
      if (!failed) failed = run();
    } catch (...) {
      group.leave_for(group.rank());
      throw;
    }
  }
  if (!failed) return nb::none();
  return nb::make_tuple(static_cast<int>(failed.failure), failed.rank);
}

void look_for_signals() {
  const nb::gil_scoped_acquire acquired;
  if (PyErr_CheckSignals() != 0) throw nb::python_error();
}

nb::object all_reduce(GroupMember& group, nb::handle x, bool in_segments, double timeout_s) {
  const BufferView view(x, PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE | PyBUF_FORMAT);
  if (std::strcmp(view.format(), "f") != 0)
    throw std::invalid_argument("all_reduce takes C-contiguous writable float32");
  auto* data = reinterpret_cast<float*>(view.data());
  const std::size_t count = view.size() / sizeof(float);
  const Call call{view.size(), in_segments ? Operation::kSumInSegments : Operation::kSumAtOnce, 0};
  return run_call(group, call, timeout_s, [&] {
    if (group.size() == 1) return Failed{};
    return in_segments ? sum_in_segments(group, data, count) : sum_at_once(group, data, count);
  });
}

nb::object all_gather(GroupMember& group, nb::handle part, nb::sequence out, double timeout_s) {
  const BufferView mine(part, PyBUF_C_CONTIGUOUS);
  std::array<std::optional<BufferView>, kMaxRanks> views;
  std::array<Piece, kMaxRanks> pieces{};
  std::size_t num_bytes = 0;
  const bool fits = nb::len(out) == static_cast<std::size_t>(group.size());
  for (int rank = 0; fits && rank < group.size(); ++rank) {
    views[rank].emplace(nb::object(out[rank]), PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE);
    pieces[rank] = {views[rank]->data(), views[rank]->size()};
    num_bytes += pieces[rank].size;
  }
  if (!fits || pieces[group.rank()].size != mine.size())
    throw std::invalid_argument("all_gather takes a buffer for each rank, of its part's size");
  const Call call{num_bytes, Operation::kGather, sizes_digest(pieces, group.size())};
  return run_call(group, call, timeout_s, [&] { return gather(group, {mine.data(), mine.size()}, pieces); });
}

nb::object broadcast_from(GroupMember& group, nb::handle data, int root, double timeout_s) {
  if (root < 0 || root >= group.size()) throw std::invalid_argument("the root is not a rank of the group");
  const BufferView view(data, PyBUF_C_CONTIGUOUS | (root == group.rank() ? 0 : PyBUF_WRITABLE));
  const Call call{view.size(), Operation::kBroadcast, static_cast<std::uint32_t>(root)};
  return run_call(group, call, timeout_s, [&] { return broadcast(group, {view.data(), view.size()}, root); });
}

}  // namespace

void bind_collective(nb::module_& module) {
  nb::class_<GroupMember>(module, "Collective")
    .def(
      "__init__",
      [](GroupMember* self, int fd, int rank, int size, std::uint64_t generation, bool stays_awake) {
        new (self) GroupMember(fd, rank, size, generation, stays_awake, look_for_signals);
      },
      nb::arg("fd"), nb::arg("rank"), nb::arg("size"), nb::arg("generation"), nb::arg("stays_awake") = true)
    .def("close", &GroupMember::close)
    .def_prop_ro("closed", &GroupMember::closed)
    .def("call_of",
         [](const GroupMember& group, int rank) {
           const Call& call = group.call_of(rank);
           return nb::make_tuple(static_cast<std::uint32_t>(call.operation), call.num_bytes, group.generation_of(rank));
         })
    .def("all_reduce", &all_reduce, nb::arg("x"), nb::arg("in_segments"), nb::arg("timeout_s"))
    .def("all_gather", &all_gather, nb::arg("part"), nb::arg("out"), nb::arg("timeout_s"))
    .def("broadcast", &broadcast_from, nb::arg("data"), nb::arg("root"), nb::arg("timeout_s"));
}

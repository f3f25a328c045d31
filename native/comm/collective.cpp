// Sums, gathers and broadcasts over the ranks of a group for Python, and sums for native code.

#include "../bindings.h"
#include "buffer_view.h"
#include "group_sum.h"

#include "../stage/shard_sum.h"

#include <nanobind/ndarray.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <optional>
#include <stdexcept>
#include <utility>

namespace nb = nanobind;
using shoal::BufferView;
using shoal::Call;
using shoal::Failed;
using shoal::GroupMember;
using shoal::kMaxRanks;
using shoal::kSlotBytes;
using shoal::Operation;
using shoal::run_call;

namespace {

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

// 32 bits that differ if two ranks do not agree on the sizes; FNV-1a's constants, a size at a time.
std::uint32_t sizes_digest(const std::array<Piece, kMaxRanks>& pieces, int count) {
  std::uint32_t digest = 0x811C9DC5;
  for (int rank = 0; rank < count; ++rank)
    digest = (digest ^ static_cast<std::uint32_t>(pieces[rank].size)) * 0x01000193;
  return digest;
}

// Converts the result of a call without the GIL to Python: None, or (failure, rank).
template <typename Run>
nb::object without_gil(const Run& run) {
  Failed failed;
  {
    const nb::gil_scoped_release released;
    failed = run();
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
  return without_gil(
    [&] { return shoal::sum_over_ranks(group, data, view.size() / sizeof(float), in_segments, timeout_s); });
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
  return without_gil([&] {
    return run_call(group, call, timeout_s, [&] { return gather(group, {mine.data(), mine.size()}, pieces); });
  });
}

nb::object broadcast_from(GroupMember& group, nb::handle data, int root, double timeout_s) {
  if (root < 0 || root >= group.size()) throw std::invalid_argument("the root is not a rank of the group");
  const BufferView view(data, PyBUF_C_CONTIGUOUS | (root == group.rank() ? 0 : PyBUF_WRITABLE));
  const Call call{view.size(), Operation::kBroadcast, static_cast<std::uint32_t>(root)};
  return without_gil([&] {
    return run_call(group, call, timeout_s, [&] { return broadcast(group, {view.data(), view.size()}, root); });
  });
}

// The sums of a stage's shards. `on_failed` raises Python's exception for a failure after so many seconds of waiting.
class GroupSum final : public shoal::ShardSum {
 public:
  GroupSum(nb::object group, std::size_t switch_bytes, double timeout_s, nb::object on_failed)
      : owner_(std::move(group)), on_failed_(std::move(on_failed)), group_(nb::cast<GroupMember&>(owner_)),
        switch_bytes_(switch_bytes), timeout_s_(timeout_s) {}

  void add_up(float* values, std::size_t count) override {
    const auto start = shoal::Clock::now();
    const bool in_segments = group_.size() > 1 && count * sizeof(float) > switch_bytes_;
    const Failed failed = shoal::sum_over_ranks(group_, values, count, in_segments, timeout_s_);
    wait_ += shoal::Clock::now() - start;
    if (!failed) return;
    const nb::gil_scoped_acquire acquired;
    on_failed_(static_cast<int>(failed.failure), failed.rank);
    throw std::logic_error("a sum has failed and nothing was raised");
  }

  double take_wait_s() {
    return std::chrono::duration<double>(std::exchange(wait_, shoal::Clock::duration(0))).count();
  }

 private:
  nb::object owner_, on_failed_;
  GroupMember& group_;
  std::size_t switch_bytes_;
  double timeout_s_;
  shoal::Clock::duration wait_{0};
};

using Floats = nb::ndarray<float, nb::c_contig, nb::device::cpu>;

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
  nb::class_<GroupSum, shoal::ShardSum>(module, "GroupSum")
    .def(nb::init<nb::object, std::size_t, double, nb::object>(), nb::arg("group"), nb::arg("switch_bytes"),
         nb::arg("timeout_s"), nb::arg("on_failed"))
    .def(
      "__call__",
      [](GroupSum& self, const Floats& x) {
        const nb::gil_scoped_release released;
        self.add_up(x.data(), x.size());
      },
      nb::arg("x").noconvert())
    .def("take_wait_s", &GroupSum::take_wait_s);
}

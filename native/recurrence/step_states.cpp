#include "step_states.h"

#include <string>

#include "../require.h"

namespace shoal {

StepStates::StepStates(const StateArrays& arrays, const std::vector<int32_t>& query_starts,
                       const std::vector<int32_t>& positions)
    : num_slots_(arrays.num_slots) {
  const int count = int(query_starts.size()) - 1;
  require(arrays.slots.size() == 2 * size_t(count), "each sequence needs the slot that is read and its own");
  require(arrays.saves.size() % 3 == 0, "snapshots must be sequence, rows and slot each");
  for (int b = 0; b < count; ++b) {
    const int read = arrays.slots[2 * b], slot = arrays.slots[2 * b + 1], first = query_starts[b];
    require(query_starts[b + 1] > first, "a sequence with a state has no rows");
    require((read == kNoSlot) == (positions[first] == 0), "a state is zeros at position 0, and there alone");
    sequences_.push_back({read, slot, {}});
  }
  check_slots(arrays);
  add_runs(arrays, query_starts);
}

// A slot may be read by many sequences. A slot that is written must be written once, and be read only by its owner;
// snapshots that are read may also be written, because all states are read before.
void StepStates::check_slots(const StateArrays& arrays) const {
  std::vector<int> owners(size_t(num_slots_), kNoSlot);
  const auto claim = [&](int slot, int owner) {
    require(slot >= 0 && slot < num_slots_, "there is no state slot " + std::to_string(slot));
    require(owners[slot] == kNoSlot, "state slot " + std::to_string(slot) + " is written twice");
    owners[slot] = owner;
  };
  const int count = int(sequences_.size());
  for (int b = 0; b < count; ++b) claim(sequences_[b].slot, b);
  for (int b = 0; b < count; ++b) {
    const int read = sequences_[b].read;
    require(read >= kNoSlot && read < num_slots_, "there is no state slot " + std::to_string(read));
    require(read == kNoSlot || owners[read] == kNoSlot || owners[read] == b,
            "state slot " + std::to_string(read) + " is another sequence's");
  }
  for (size_t i = 2; i < arrays.saves.size(); i += 3) claim(arrays.saves[i], count);
}

void StepStates::add_runs(const StateArrays& arrays, const std::vector<int32_t>& query_starts) {
  const int count = int(sequences_.size());
  size_t next = 0;
  for (int b = 0; b < count; ++b) {
    int row = query_starts[b];
    const int end = query_starts[b + 1];
    for (; next < arrays.saves.size() && arrays.saves[next] == b; next += 3) {
      const int until = arrays.saves[next + 1];
      require(until > row - query_starts[b] && until <= end - query_starts[b],
              "snapshots must be within their sequence's rows, in order");
      sequences_[b].runs.push_back({row, until - (row - query_starts[b]), arrays.saves[next + 2]});
      row = query_starts[b] + until;
    }
    if (row < end) sequences_[b].runs.push_back({row, end - row, kNoSlot});
  }
  require(next == arrays.saves.size(), "snapshots must be in the order of their sequences");
}

}  // namespace shoal

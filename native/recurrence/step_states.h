// What a step does with the states of its sequences, checked once and shared by all recurrent layers.
#pragma once

#include <cstdint>
#include <vector>

namespace shoal {

// Rows of a sequence that are computed in one go, and the slot to which its state is copied after them.
struct StateRun {
  int first_row;  // of the step
  int num_rows;
  int save;  // slot, or kNoSlot
};

constexpr int kNoSlot = -1;

struct SequenceState {
  int read;  // slot of the state before the rows; kNoSlot: it is zeros
  int slot;  // of the sequence
  std::vector<StateRun> runs;
};

struct StateArrays {
  std::vector<int32_t> slots;  // [B, 2]: read, own
  std::vector<int32_t> saves;  // [S, 3]: sequence, rows before it, slot
  int num_slots;
};

class StepStates {
 public:
  // `query_starts` [B + 1] and `positions` are the step's, already checked. Throws std::invalid_argument if a slot does
  // not exist, or is both a sequence's own and used otherwise.
  StepStates(const StateArrays& arrays, const std::vector<int32_t>& query_starts,
             const std::vector<int32_t>& positions);

  const std::vector<SequenceState>& sequences() const { return sequences_; }
  int num_slots() const { return num_slots_; }

 private:
  void add_runs(const StateArrays& arrays, const std::vector<int32_t>& query_starts);
  void check_slots(const StateArrays& arrays) const;

  int num_slots_;
  std::vector<SequenceState> sequences_;
};

}  // namespace shoal

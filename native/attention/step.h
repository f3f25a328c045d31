// One step's metadata, checked once and shared by all layers.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <vector>

#include "../recurrence/step_states.h"
#include "args.h"
#include "plan.h"
#include "step_arrays.h"

namespace shoal {

struct CacheLimits {
  int num_blocks;
  int block_size;
  int max_context;

  bool operator==(const CacheLimits& other) const {
    return num_blocks == other.num_blocks && block_size == other.block_size && max_context == other.max_context;
  }
};

// Angles by which rows are rotated instead of those of their positions: [T, width] each.
struct RowAngles {
  std::vector<float> cos, sin;
  int width;
};

// Neighboring rows that have the same adapter.
struct AdapterSpan {
  int adapter;
  int first_row;
  int num_rows;
};

class StepMetadata {
 public:
  // Throws std::invalid_argument for anything that would touch memory outside a sequence's own blocks.
  StepMetadata(StepArrays arrays, CacheLimits limits);

  // The last rows of each sequence, whose numbers are [B], as a step of their own. They are rotated by their positions
  // and see what is before them. Throws std::invalid_argument if a sequence has fewer rows.
  StepMetadata tails(const std::vector<int32_t>& counts) const;

  int num_tokens() const { return int(arrays_.positions.size()); }
  int num_sequences() const { return int(arrays_.context_lens.size()); }
  const CacheLimits& limits() const { return limits_; }
  // The number of rows before those of a sequence.
  int first_row(int sequence) const { return arrays_.query_starts[sequence]; }
  int end_row(int sequence) const { return arrays_.query_starts[sequence + 1]; }
  StepView view() const;
  // For recurrent layers. Throws std::invalid_argument for impossible slots.
  void set_states(const StateArrays& states) { states_.emplace(states, arrays_.query_starts, arrays_.positions); }
  const StepStates* states() const { return states_ ? &*states_ : nullptr; }
  // Rotates rows by these angles in every layer. Throws std::invalid_argument unless there is one for each row.
  void set_angles(RowAngles angles);
  // Pairs of dimensions of the angles; -1: rows are rotated by their positions.
  int angles_width() const { return angles_ ? angles_->width : -1; }
  // Throws std::invalid_argument if a row does not exist.
  void set_added(AddedRows added);
  const AddedRows* added() const { return added_ ? &*added_ : nullptr; }
  // The key before which each row sees [T]. Throws std::invalid_argument if it is not after the row itself, is beyond
  // its sequence's context, or is before that of the previous row.
  void set_ends_seen(std::vector<int32_t> ends);
  // The adapter of each sequence [B], -1: none. Throws std::invalid_argument if one does not exist.
  void set_adapters(const std::vector<int32_t>& adapters, int num_adapters);
  // Spans of rows that have an adapter, in order.
  const std::vector<AdapterSpan>& adapters() const { return adapters_; }
  // Rows cut into ranges of at most `rows` of one sequence. Made once, like the plans. Not thread-safe.
  const std::vector<RowRange>& ranges(int rows);
  const Plan& plan(const Sharing& sharing);
  // Sum over rows of the keys seen, and over sequences of the keys read, where a row sees at most `window` (0: all), or with
  // `sees_all` the whole context.
  int64_t num_scores(int window, bool sees_all) const;
  int64_t num_keys(int window) const;

 private:
  void check_rows() const;
  void check_sequence(int sequence) const;

  StepArrays arrays_;
  CacheLimits limits_;
  std::optional<StepStates> states_;
  std::optional<RowAngles> angles_;
  std::optional<AddedRows> added_;
  std::vector<AdapterSpan> adapters_;
  std::map<int, std::vector<RowRange>> ranges_;
  std::map<Sharing, Plan> plans_;
};

}  // namespace shoal

#include "step.h"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace shoal {

StepMetadata::StepMetadata(StepArrays arrays, CacheLimits limits) : arrays_(std::move(arrays)), limits_(limits) {
  if (limits.num_blocks < 1 || limits.max_context < 1 || limits.block_size < 1 || limits.block_size % kGroupKeys)
    throw std::invalid_argument("blocks and context must be positive, block_size a positive multiple of 16");
  check_rows();
  for (int b = 0; b < num_sequences(); ++b) check_sequence(b);
}

void StepMetadata::check_rows() const {
  const std::vector<int32_t>& starts = arrays_.query_starts;
  const size_t sequences = arrays_.context_lens.size();
  if (starts.size() != sequences + 1 || arrays_.block_tables.size() != sequences * size_t(arrays_.table_width))
    throw std::invalid_argument("query_starts, context_lens and block_tables disagree on the number of sequences");
  if (starts.front() != 0 || size_t(starts.back()) != arrays_.positions.size() ||
      !std::is_sorted(starts.begin(), starts.end()))
    throw std::invalid_argument("query_starts must rise from 0 to the number of rows");
}

void StepMetadata::check_sequence(int sequence) const {
  const std::string who = "sequence " + std::to_string(sequence) + ": ";
  const int first = arrays_.query_starts[sequence], end = arrays_.query_starts[sequence + 1];
  const int context = arrays_.context_lens[sequence];
  if (context < end - first || context > limits_.max_context)
    throw std::invalid_argument(who + "context " + std::to_string(context) + " is not within its rows and " +
                                std::to_string(limits_.max_context));
  for (int row = first; row < end; ++row)
    if (arrays_.positions[row] != context - (end - row))
      throw std::invalid_argument(who + "positions are not the last ones of its context");
  const int used = context / limits_.block_size + (context % limits_.block_size != 0);
  const int32_t* table = arrays_.block_tables.data() + int64_t(sequence) * arrays_.table_width;
  const auto missing = [this](int32_t block) { return block < 0 || block >= limits_.num_blocks; };
  if (used > arrays_.table_width || std::any_of(table, table + used, missing))
    throw std::invalid_argument(who + "its block table is too short or names a block that is not there");
}

StepMetadata StepMetadata::tails(const std::vector<int32_t>& counts) const {
  if (int(counts.size()) != num_sequences()) throw std::invalid_argument("every sequence must say how many rows are read");
  StepArrays own{{}, {0}, arrays_.context_lens, arrays_.block_tables, arrays_.table_width};
  for (int b = 0; b < num_sequences(); ++b) {
    if (counts[b] < 0 || counts[b] > end_row(b) - first_row(b))
      throw std::invalid_argument("sequence " + std::to_string(b) + " has other rows than are read of it");
    const auto end = arrays_.positions.begin() + end_row(b);
    own.positions.insert(own.positions.end(), end - counts[b], end);
    own.query_starts.push_back(int32_t(own.positions.size()));
  }
  return StepMetadata(std::move(own), limits_);
}

StepView StepMetadata::view() const {
  return {arrays_.positions.data(),
          arrays_.block_tables.data(),
          arrays_.table_width,
          arrays_.context_lens.data(),
          arrays_.ends_seen.empty() ? nullptr : arrays_.ends_seen.data(),
          angles_ ? angles_->cos.data() : nullptr,
          angles_ ? angles_->sin.data() : nullptr};
}

void StepMetadata::set_angles(RowAngles angles) {
  const size_t count = size_t(num_tokens()) * size_t(std::max(angles.width, 0));
  if (angles.width < 0 || angles.cos.size() != count || angles.sin.size() != count)
    throw std::invalid_argument("every row must have its angles");
  angles_.emplace(std::move(angles));
}

void StepMetadata::set_added(AddedRows added) {
  const auto is_missing = [this](int32_t row) { return row < 0 || row >= num_tokens(); };
  const size_t count = size_t(std::max(added.num_layers, 0)) * added.rows.size() * size_t(std::max(added.width, 0));
  if (added.num_layers < 0 || added.width < 1 || added.values.size() != count ||
      std::any_of(added.rows.begin(), added.rows.end(), is_missing))
    throw std::invalid_argument("what is added must be [layers, rows, hidden size] for rows of the step");
  added_.emplace(std::move(added));
}

void StepMetadata::set_ends_seen(std::vector<int32_t> ends) {
  if (ends.size() != arrays_.positions.size() || !plans_.empty())
    throw std::invalid_argument("every row must say what it sees, before the step is run");
  for (int b = 0; b < num_sequences(); ++b)
    for (int row = arrays_.query_starts[b]; row < arrays_.query_starts[b + 1]; ++row) {
      const bool is_before_last = row > arrays_.query_starts[b] && ends[row] < ends[row - 1];
      if (ends[row] <= arrays_.positions[row] || ends[row] > arrays_.context_lens[b] || is_before_last)
        throw std::invalid_argument("sequence " + std::to_string(b) + ": a row sees what it cannot");
    }
  arrays_.ends_seen = std::move(ends);
}

void StepMetadata::set_adapters(const std::vector<int32_t>& adapters, int num_adapters) {
  if (int(adapters.size()) != num_sequences())
    throw std::invalid_argument("every sequence must say which adapter it has");
  adapters_.clear();
  for (int b = 0; b < num_sequences(); ++b) {
    const int first = arrays_.query_starts[b], rows = arrays_.query_starts[b + 1] - first, adapter = adapters[b];
    if (adapter < -1 || adapter >= num_adapters)
      throw std::invalid_argument("sequence " + std::to_string(b) + ": there is no adapter " + std::to_string(adapter));
    if (adapter < 0 || rows == 0) continue;
    AdapterSpan* last = adapters_.empty() ? nullptr : &adapters_.back();
    if (last != nullptr && last->adapter == adapter && last->first_row + last->num_rows == first) {
      last->num_rows += rows;
    } else {
      adapters_.push_back({adapter, first, rows});
    }
  }
}

const std::vector<RowRange>& StepMetadata::ranges(int rows) {
  const auto [entry, is_new] = ranges_.try_emplace(rows);
  std::vector<RowRange>& found = entry->second;
  if (!is_new) return found;
  for (int b = 0; b < num_sequences(); ++b)
    for (int row = arrays_.query_starts[b]; row < arrays_.query_starts[b + 1]; row += rows)
      found.push_back({b, row, std::min(rows, arrays_.query_starts[b + 1] - row)});
  return found;
}

const Plan& StepMetadata::plan(const Sharing& sharing) {
  const auto [entry, is_new] = plans_.try_emplace(sharing);
  if (is_new) entry->second = make_plan(ranges(sharing.tile_tokens), arrays_, sharing);
  return entry->second;
}

int64_t StepMetadata::num_scores(int window, bool sees_all) const {
  int64_t sum = 0;
  if (sees_all) {
    for (int b = 0; b < num_sequences(); ++b)
      sum += int64_t(arrays_.query_starts[b + 1] - arrays_.query_starts[b]) * arrays_.context_lens[b];
    return sum;
  }
  for (const int32_t position : arrays_.positions) sum += window > 0 ? std::min(position + 1, window) : position + 1;
  return sum;
}

int64_t StepMetadata::num_keys(int window) const {
  int64_t sum = 0;
  for (int b = 0; b < num_sequences(); ++b) {
    const int rows = arrays_.query_starts[b + 1] - arrays_.query_starts[b];
    const int context = rows > 0 ? arrays_.context_lens[b] : 0;
    sum += window > 0 ? std::min(int64_t(context), int64_t(window) + rows) : context;
  }
  return sum;
}

}  // namespace shoal

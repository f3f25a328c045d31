#include "layer.h"

#include <algorithm>

#include "../require.h"

namespace shoal {

namespace {

constexpr int kChannelAtom = 64;          // channels that stay together: four cache lines of a row
constexpr int kItemValues = 1 << 14;      // of an item of work at least: some microseconds
constexpr int64_t kCopyValues = 1 << 16;  // of a state that one item copies

int num_rows(const SequenceState& sequence) {
  return sequence.runs.back().first_row + sequence.runs.back().num_rows - sequence.runs.front().first_row;
}

}  // namespace

void check_conv(const ConvView& view) {
  require(view.num_taps >= kMinTaps && view.num_taps <= kMaxTaps, "a convolution must have 2 to 4 taps");
  require(view.num_channels >= 1, "a convolution must have channels");
}

void each_channels(ThreadPool& pool, const StepStates& step, int num_channels,
                   const std::function<void(const SequenceState&, int, int)>& work) {
  struct Item {
    const SequenceState* sequence;
    int first, end;
  };
  std::vector<Item> items;
  for (const SequenceState& sequence : step.sequences()) {
    const int atoms = std::max(1, kItemValues / (num_rows(sequence) * kChannelAtom));
    for (int first = 0; first < num_channels; first += atoms * kChannelAtom)
      items.push_back({&sequence, first, std::min(num_channels, first + atoms * kChannelAtom)});
  }
  pool.each(int(items.size()), [&](int i) { work(*items[i].sequence, items[i].first, items[i].end); });
}

void RecurrentLayer::run(const StepStates& step, float* in, float* out, float* squares) const {
  require(step.num_slots() == num_slots_, "the step was made for another number of state slots");
  read_states(step);
  compute(step, in, out, squares);
}

void RecurrentLayer::read_states(const StepStates& step) const {
  const int64_t size = state_size();
  const int parts = int((size + kCopyValues - 1) / kCopyValues);
  std::vector<const SequenceState*> moved;
  for (const SequenceState& sequence : step.sequences())
    if (sequence.read != sequence.slot) moved.push_back(&sequence);
  pool_->each(int(moved.size()) * parts, [&](int item) {
    const SequenceState& sequence = *moved[item / parts];
    const int64_t first = item % parts * kCopyValues, end = std::min(size, first + kCopyValues);
    float* to = state(sequence.slot);
    if (sequence.read == kNoSlot) {
      std::fill(to + first, to + end, 0.0f);
    } else {
      std::copy(state(sequence.read) + first, state(sequence.read) + end, to + first);
    }
  });
}

ShortConvLayer::ShortConvLayer(std::shared_ptr<ThreadPool> pool, const RecurrenceKernel& kernel, const ConvView& view,
                               float* states, int num_slots)
    : RecurrentLayer(std::move(pool), states, num_slots), kernel_(kernel), view_(view) {
  check_conv(view);
}

void ShortConvLayer::compute(const StepStates& step, float* in, float* out, float*) const {
  each_channels(pool(), step, view_.num_channels, [&](const SequenceState& sequence, int first, int end) {
    float* window = state(sequence.slot);
    for (const StateRun& run : sequence.runs) {
      const ConvCall call{run.num_rows, first, end, in_width(), out_width(), window};
      kernel_.gated_conv(view_, call, in + int64_t(run.first_row) * in_width(),
                         out + int64_t(run.first_row) * out_width());
      save_window(sequence, run, view_, first, end);
    }
  });
}

void RecurrentLayer::save_window(const SequenceState& sequence, const StateRun& run, const ConvView& view, int first,
                                 int end) const {
  if (run.save == kNoSlot) return;
  const float* window = state(sequence.slot);
  for (int tap = 0; tap + 1 < view.num_taps; ++tap) {
    const int64_t row = int64_t(tap) * view.num_channels;
    std::copy(window + row + first, window + row + end, state(run.save) + row + first);
  }
}

void RecurrentLayer::convolve(const StepStates& step, const RecurrenceKernel& kernel, const ConvView& view,
                              float* in) const {
  each_channels(pool(), step, view.num_channels, [&](const SequenceState& sequence, int first, int end) {
    for (const StateRun& run : sequence.runs) {
      const ConvCall call{run.num_rows, first, end, in_width(), in_width(), state(sequence.slot)};
      kernel.silu_conv(view, call, in + int64_t(run.first_row) * in_width());
      save_window(sequence, run, view, first, end);
    }
  });
}

DeltaLayer::DeltaLayer(std::shared_ptr<ThreadPool> pool, const RecurrenceKernel& kernel, const DeltaShape& shape,
                       const ConvView& conv, const float* rates, const float* decay_biases, const float* norm,
                       float epsilon, float* states, int num_slots)
    : RecurrentLayer(std::move(pool), states, num_slots),
      kernel_(kernel),
      shape_(shape),
      conv_(conv),
      rates_(rates),
      decay_biases_(decay_biases),
      view_{shape.key_dim, shape.value_dim, epsilon, norm} {
  check_conv(conv);
  require(shape.num_key_heads >= 1 && shape.num_value_heads >= 1 && shape.num_value_heads % shape.num_key_heads == 0,
          "value heads must be a positive multiple of key heads");
  require(shape.key_dim >= 1 && shape.key_dim <= kMaxDeltaDim && shape.value_dim >= 1 &&
              shape.value_dim <= kMaxDeltaDim,
          "heads of the delta rule must have 1 to 512 dimensions");
  require(conv.num_channels == 2 * shape.num_key_heads * shape.key_dim + out_width(),
          "the convolution must have the channels of queries, keys and values");
}

void DeltaLayer::compute(const StepStates& step, float* in, float* out, float*) const {
  convolve(step, kernel_, conv_, in);
  const std::vector<SequenceState>& sequences = step.sequences();
  const int heads = shape_.num_value_heads;
  pool().each(int(sequences.size()) * heads,
              [&](int item) { run_head(sequences[item / heads], item % heads, in, out); });
}

void DeltaLayer::run_head(const SequenceState& sequence, int head, const float* in, float* out) const {
  const int key_head = shape_.in_turn ? head % shape_.num_key_heads
                                      : head / (shape_.num_value_heads / shape_.num_key_heads);
  const int64_t keys = int64_t(shape_.num_key_heads) * shape_.key_dim, values = out_width();
  const int64_t size = int64_t(shape_.key_dim) * shape_.value_dim, first = window_size() + head * size;
  for (const StateRun& run : sequence.runs) {
    const float* row = in + int64_t(run.first_row) * in_width();
    const float *value = row + 2 * keys + int64_t(head) * shape_.value_dim, *numbers = row + 2 * keys + 2 * values;
    float* matrix = state(sequence.slot) + first;
    kernel_.delta_rule(view_, {run.num_rows, in_width(), out_width(), row + int64_t(key_head) * shape_.key_dim,
                               row + keys + int64_t(key_head) * shape_.key_dim, value, value + values, numbers + head,
                               numbers + shape_.num_value_heads + head, rates_[head], decay_biases_[head], matrix,
                               out + int64_t(run.first_row) * out_width() + int64_t(head) * shape_.value_dim});
    if (run.save != kNoSlot) std::copy(matrix, matrix + size, state(run.save) + first);
  }
}

}  // namespace shoal

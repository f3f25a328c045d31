#include "layer.h"

#include <algorithm>
#include <stdexcept>

namespace shoal {

namespace {

constexpr int kChannelAtom = 64;          // channels that stay together: four cache lines of a row
constexpr int kItemValues = 1 << 14;      // of an item of work at least: some microseconds
constexpr int64_t kCopyValues = 1 << 16;  // of a state that one item copies

void require(bool condition, const char* message) {
  if (!condition) throw std::invalid_argument(message);
}

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

void RecurrentLayer::run(const StepStates& step, float* in, float* out) const {
  require(step.num_slots() == num_slots_, "the step was made for another number of state slots");
  read_states(step);
  compute(step, in, out);
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

void ShortConvLayer::compute(const StepStates& step, float* in, float* out) const {
  each_channels(pool(), step, view_.num_channels, [&](const SequenceState& sequence, int first, int end) {
    float* window = state(sequence.slot);
    for (const StateRun& run : sequence.runs) {
      const ConvCall call{run.num_rows, first, end, in_width(), out_width(), window};
      kernel_.gated_conv(view_, call, in + int64_t(run.first_row) * in_width(),
                         out + int64_t(run.first_row) * out_width());
      if (run.save == kNoSlot) continue;
      for (int tap = 0; tap + 1 < view_.num_taps; ++tap) {
        const int64_t row = int64_t(tap) * view_.num_channels;
        std::copy(window + row + first, window + row + end, state(run.save) + row + first);
      }
    }
  });
}

}  // namespace shoal

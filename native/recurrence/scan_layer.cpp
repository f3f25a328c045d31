#include <algorithm>

#include "../require.h"
#include "../threads/each_rows.h"
#include "layer.h"

namespace shoal {

ScanLayer::ScanLayer(std::shared_ptr<ThreadPool> pool, const RecurrenceKernel& kernel, const ScanShape& shape,
                     const ConvView& conv, const ScanVectors& vectors, float epsilon, float* states, int num_slots)
    : RecurrentLayer(std::move(pool), states, num_slots),
      kernel_(kernel),
      shape_(shape),
      conv_(conv),
      vectors_(vectors),
      epsilon_(epsilon) {
  check_conv(conv);
  require(shape.num_groups >= 1 && shape.num_heads >= 1 && shape.num_heads % shape.num_groups == 0,
          "heads must be a positive multiple of groups");
  require(shape.head_dim >= 1 && shape.state_dim >= 1, "heads and states must have dimensions");
  require(conv.num_channels == out_width() + 2 * shape.num_groups * shape.state_dim,
          "the convolution must have the channels of x and of what is written and read");
}

void ScanLayer::compute(const StepStates& step, float* in, float* out, float* squares) const {
  convolve(step, kernel_, conv_, in);
  const std::vector<SequenceState>& sequences = step.sequences();
  const int heads = shape_.num_heads, groups = shape_.num_groups, width = out_width() / groups;
  pool().each(int(sequences.size()) * heads,
              [&](int item) { run_head(sequences[item / heads], item % heads, in, out); });
  const StateRun& last = sequences.back().runs.back();
  each_rows(pool(), last.first_row + last.num_rows, out_width(), [&](int row) {
    const float* gates = in + int64_t(row) * in_width() + conv_.num_channels;
    float* own = out + int64_t(row) * out_width();
    if (squares != nullptr) {
      squares[row] = kernel_.gated_squares(gates, vectors_.norm, out_width(), own);
      return;
    }
    for (int first = 0; first < out_width(); first += width)
      kernel_.gated_norm(gates + first, vectors_.norm + first, epsilon_, width, own + first);
  });
}

void ScanLayer::run_head(const SequenceState& sequence, int head, const float* in, float* out) const {
  const int group = head / (shape_.num_heads / shape_.num_groups), dim = shape_.head_dim;
  const int64_t size = int64_t(shape_.state_dim) * dim, first = window_size() + head * size;
  for (const StateRun& run : sequence.runs) {
    const float* row = in + int64_t(run.first_row) * in_width();
    const float *write = row + out_width() + int64_t(group) * shape_.state_dim,
                *read = write + int64_t(shape_.num_groups) * shape_.state_dim;
    float* own = state(sequence.slot) + first;
    kernel_.scan({dim, shape_.state_dim},
                 {run.num_rows, in_width(), out_width(), row + int64_t(head) * dim, write, read,
                  row + conv_.num_channels + out_width() + head, vectors_.step_biases[head], vectors_.rates[head],
                  vectors_.skips[head], own, out + int64_t(run.first_row) * out_width() + int64_t(head) * dim});
    if (run.save != kNoSlot) std::copy(own, own + size, state(run.save) + first);
  }
}

}  // namespace shoal

// Rows that carry more than a hidden state: further residual streams, or inputs of each layer.
#include <algorithm>

#include "../require.h"
#include "../threads/each_rows.h"
#include "stage.h"

namespace shoal {

void Stage::copy_hidden(const float* from, int64_t from_width, int num_rows, float* to, int64_t to_width) {
  each_rows(*pool_, num_rows, shape_.hidden_size,
            [&](int row) { std::copy_n(from + row * from_width, shape_.hidden_size, to + row * to_width); });
}

void Stage::run_carried(size_t index, float* x, float* hidden, StepMetadata& step, const SumOverShards& sum) {
  const StageLayer& layer = layers_[index];
  const int num_rows = step.num_tokens(), size = shape_.hidden_size;
  const int64_t width = shape_.carried_width();
  if (streams_) streams_->predict(*layer.streams, num_rows, x, width, hidden);
  run_layer(index, hidden, step, nullptr, sum);
  if (streams_) streams_->correct(*layer.streams, num_rows, x, width, hidden);
  const float* delta = nullptr;
  if (inputs_) {
    const float* input = x + shape_.streams_width() + (shape_.first_layer + int64_t(index)) * shape_.inputs->width;
    delta = inputs_->run(*layer.input, hidden, num_rows, input, width);
  }
  if (streams_ && delta != nullptr) streams_->add_to_others(delta, num_rows, x, width);
  if (streams_) return;
  each_rows(*pool_, num_rows, size, [&](int row) {
    float* to = hidden + int64_t(row) * size;
    if (delta != nullptr) isa_.layers->add(delta + int64_t(row) * size, nullptr, size, to);
    if (layer.scale != nullptr) isa_.layers->scale(*layer.scale, size, to);
  });
}

void Stage::begin(const CarriedEnds& ends, const float* embedding, const float* looked_up, int num_rows, float* x) {
  const int64_t width = shape_.carried_width();
  require(num_rows <= shape_.max_rows, "more rows than the stage was made for");
  if (streams_) {
    streams_->spread(embedding, ends.spread, num_rows, x, width);
  } else {
    copy_hidden(embedding, shape_.hidden_size, num_rows, x, width);
  }
  if (!inputs_) return;
  require(ends.inputs_projection != nullptr && ends.inputs_norm != nullptr, "inputs need a projection and a norm");
  inputs_->begin(embedding, looked_up, *ends.inputs_projection, ends.inputs_norm, num_rows,
                 x + shape_.streams_width(), width);
}

void Stage::finish(const CarriedEnds& ends, int num_rows, float* x) {
  require(num_rows <= shape_.max_rows, "more rows than the stage was made for");
  if (streams_) streams_->join(ends.join, num_rows, x, shape_.carried_width());
}

}  // namespace shoal

#include "layer_inputs.h"

#include <algorithm>
#include <cmath>

#include "../../require.h"
#include "../../threads/each_rows.h"

namespace shoal {

namespace {

bool has_shape(const Matrix* matrix, int num_outputs, int num_inputs) {
  return matrix != nullptr && matrix->num_outputs == num_outputs && matrix->num_inputs == num_inputs;
}

}  // namespace

LayerInputs::LayerInputs(std::shared_ptr<ThreadPool> pool, const Isa& isa, const InputsShape& shape, int hidden_size,
                         int max_rows, Activation activation, float norm_epsilon, bool exact_activations)
    : pool_(pool),
      isa_(isa),
      shape_(shape),
      hidden_size_(hidden_size),
      activation_(activation),
      norm_epsilon_(norm_epsilon),
      products_(pool, isa, max_rows, std::max(hidden_size, shape.width), exact_activations),
      gates_(allocate<float>(size_t(max_rows) * shape.width)),
      delta_(allocate<float>(size_t(max_rows) * hidden_size)) {
  require(shape.width >= 1 && shape.num_layers >= 1, "sizes of layers' inputs must be positive");
}

void LayerInputs::check(const InputLayer& layer) const {
  require(has_shape(layer.gate, shape_.width, hidden_size_) && has_shape(layer.projection, hidden_size_, shape_.width) &&
              layer.norm != nullptr,
          "a layer's input must have a gate [width, hidden size], a projection [hidden size, width] and a norm");
}

void LayerInputs::begin(const float* embedding, const float* looked_up, const Matrix& projection, const float* norm,
                        int num_rows, float* inputs, int64_t width) {
  const int all = shape_.num_layers * shape_.width;
  require(has_shape(&projection, all, hidden_size_), "inputs need a projection [layers x width, hidden size]");
  products_.run(embedding, hidden_size_, num_rows, projection, Finish::kStore, activation_, inputs, width);
  const float scale = 1.0f / std::sqrt(float(hidden_size_)), half = std::sqrt(0.5f);
  const float lookup_scale = std::sqrt(float(shape_.width));
  each_rows(*pool_, num_rows, all, [&](int row) {
    float* to = inputs + row * width;
    isa_.layers->scale(scale, all, to);
    for (int layer = 0; layer < shape_.num_layers; ++layer)
      isa_.layers->norm(to + layer * shape_.width, norm, norm_epsilon_, shape_.width, to + layer * shape_.width);
    isa_.layers->add_scaled(looked_up + int64_t(row) * all, lookup_scale, all, to);
    isa_.layers->scale(half, all, to);
  });
}

const float* LayerInputs::run(const InputLayer& layer, const float* hidden, int num_rows, const float* input,
                              int64_t width) {
  products_.run(hidden, hidden_size_, num_rows, *layer.gate, Finish::kActivate, activation_, gates_.get(),
                shape_.width);
  each_rows(*pool_, num_rows, shape_.width, [&](int row) {
    isa_.layers->multiply(input + row * width, shape_.width, gates_.get() + int64_t(row) * shape_.width);
  });
  products_.run(gates_.get(), shape_.width, num_rows, *layer.projection, Finish::kStore, activation_, delta_.get(),
                hidden_size_);
  each_rows(*pool_, num_rows, hidden_size_, [&](int row) {
    float* to = delta_.get() + int64_t(row) * hidden_size_;
    isa_.layers->norm(to, layer.norm, norm_epsilon_, hidden_size_, to);
  });
  return delta_.get();
}

}  // namespace shoal

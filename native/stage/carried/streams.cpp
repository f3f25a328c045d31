#include "streams.h"

#include <algorithm>
#include <cmath>

#include "../../require.h"
#include "../../threads/each_rows.h"

namespace shoal {

namespace {

constexpr float kLeastSquare = 1e-5f;  // of a stream that is brought to another's magnitude. Source: Gemma 3n

bool has_shape(const Matrix* matrix, int num_outputs, int num_inputs) {
  return matrix != nullptr && matrix->num_outputs == num_outputs && matrix->num_inputs == num_inputs;
}

// Sixteen sums side by side: the same order of additions with every compiler.
float dot(const float* a, const float* b, int width) {
  float sums[16] = {};
  for (int i = 0; i < width; ++i) sums[i % 16] += a[i] * b[i];
  float sum = 0.0f;
  for (const float one : sums) sum += one;
  return sum;
}

float mean_square(const float* row, int width) { return dot(row, row, width) / float(width); }

}  // namespace

Streams::Streams(std::shared_ptr<ThreadPool> pool, const Isa& isa, const StreamsShape& shape, int hidden_size,
                 int max_rows, float norm_epsilon, bool exact_activations)
    : pool_(pool),
      isa_(isa),
      shape_(shape),
      hidden_size_(hidden_size),
      norm_epsilon_(norm_epsilon),
      products_(pool, isa, max_rows, std::max(hidden_size, shape.rank), exact_activations) {
  require(shape.num_streams >= 2 && shape.num_streams <= kMaxStreams, "there are 2 to 16 streams");
  require(shape.active >= 0 && shape.active < shape.num_streams, "the active stream must be one of them");
  require(shape.rank >= 1, "the rank of a residual must be positive");
  const size_t rows = max_rows;
  before_ = allocate<float>(rows * shape.num_streams * hidden_size);
  normed_ = allocate<float>(rows * hidden_size);
  residual_ = allocate<float>(rows * hidden_size);
  low_rank_ = allocate<float>(rows * shape.rank);
}

void Streams::check(const StreamsLayer& layer) const {
  require(layer.router != nullptr && layer.router_norm != nullptr && layer.prediction != nullptr &&
              layer.correction != nullptr && layer.scale != nullptr && layer.norm != nullptr,
          "a layer of several streams must have all of their vectors");
  require(has_shape(layer.down, shape_.rank, hidden_size_) && has_shape(layer.up, hidden_size_, shape_.rank),
          "a learned residual must be [rank, hidden size] and [hidden size, rank]");
}

void Streams::route(const StreamsLayer& layer, const float* row, float* normed, float* said) const {
  isa_.layers->norm(row, layer.router_norm, norm_epsilon_, hidden_size_, normed);
  for (int stream = 0; stream < shape_.num_streams; ++stream)
    said[stream] = dot(normed, layer.router + int64_t(stream) * hidden_size_, hidden_size_) / float(hidden_size_);
  isa_.layers->softcap(1.0f, shape_.num_streams, said);
}

void Streams::match_magnitude(const float* like, float* row) const {
  const float wanted = std::sqrt(mean_square(like, hidden_size_));
  const float own = std::sqrt(std::max(mean_square(row, hidden_size_), kLeastSquare));
  isa_.layers->scale(wanted / own, hidden_size_, row);
}

void Streams::spread(const float* embedding, const std::vector<const Matrix*>& matrices, int num_rows, float* x,
                     int64_t width) {
  require(int(matrices.size()) == shape_.num_streams - 1, "every stream but the first has a matrix");
  for (size_t i = 0; i < matrices.size(); ++i) {
    require(has_shape(matrices[i], hidden_size_, hidden_size_), "a stream's matrix must be [hidden size, hidden size]");
    products_.run(embedding, hidden_size_, num_rows, *matrices[i], Finish::kStore, Activation::kSilu,
                  x + int64_t(i + 1) * hidden_size_, width);
  }
  each_rows(*pool_, num_rows, shape_.num_streams * hidden_size_, [&](int row) {
    const float* from = embedding + int64_t(row) * hidden_size_;
    float* to = x + row * width;
    std::copy_n(from, hidden_size_, to);
    for (int stream = 1; stream < shape_.num_streams; ++stream)
      match_magnitude(from, to + int64_t(stream) * hidden_size_);
  });
}

void Streams::predict(const StreamsLayer& layer, int num_rows, float* x, int64_t width, float* active) {
  const int count = shape_.num_streams, all = count * hidden_size_;
  each_rows(*pool_, num_rows, all * count, [&](int row) {
    float *streams = x + row * width, *before = before_.get() + int64_t(row) * all, said[kMaxStreams];
    std::copy_n(streams, all, before);
    route(layer, before + int64_t(shape_.active) * hidden_size_, normed_.get() + int64_t(row) * hidden_size_, said);
    for (int to = 0; to < count; ++to)
      for (int from = 0; from < count; ++from) {
        const float* coefficients = layer.prediction + (int64_t(to) * count + from) * count;
        isa_.layers->add_scaled(before + int64_t(from) * hidden_size_, dot(coefficients, said, count), hidden_size_,
                                streams + int64_t(to) * hidden_size_);
      }
    std::copy_n(streams + int64_t(shape_.active) * hidden_size_, hidden_size_, active + int64_t(row) * hidden_size_);
  });
}

void Streams::project(const StreamsLayer& layer, const ActivationRows& normed) {
  const int num_rows = normed.num_rows;
  products_.run(normed.values, normed.value_stride, num_rows, *layer.down, Finish::kStore, Activation::kSilu,
                low_rank_.get(), shape_.rank);
  products_.run(low_rank_.get(), shape_.rank, num_rows, *layer.up, Finish::kStore, Activation::kSilu, residual_.get(),
                hidden_size_);
  each_rows(*pool_, num_rows, hidden_size_, [&](int row) {
    float* to = residual_.get() + int64_t(row) * hidden_size_;
    isa_.layers->norm(to, layer.norm, norm_epsilon_, hidden_size_, to);
    isa_.layers->add(normed.values + row * normed.value_stride, nullptr, hidden_size_, to);
  });
}

void Streams::add_residual(int num_rows, float* hidden) {
  each_rows(*pool_, num_rows, hidden_size_, [&](int row) {
    float* to = hidden + int64_t(row) * hidden_size_;
    isa_.layers->add(residual_.get() + int64_t(row) * hidden_size_, nullptr, hidden_size_, to);
    isa_.layers->scale(0.70710678f, hidden_size_, to);
  });
}

void Streams::correct(const StreamsLayer& layer, int num_rows, float* x, int64_t width, float* active) {
  const int count = shape_.num_streams;
  each_rows(*pool_, num_rows, hidden_size_ * count, [&](int row) {
    float *streams = x + row * width, *made = active + int64_t(row) * hidden_size_, said[kMaxStreams];
    float* change = normed_.get() + int64_t(row) * hidden_size_;
    route(layer, made, change, said);
    const float* predicted = streams + int64_t(shape_.active) * hidden_size_;
    for (int i = 0; i < hidden_size_; ++i) change[i] = made[i] - predicted[i];
    for (int to = 0; to < count; ++to)
      isa_.layers->add_scaled(change, dot(layer.correction + to * count, said, count) + 1.0f, hidden_size_,
                              streams + int64_t(to) * hidden_size_);
    std::copy_n(predicted, hidden_size_, made);
    if (shape_.scales_output) isa_.layers->multiply(layer.scale, hidden_size_, made);
  });
}

void Streams::add_to_others(const float* delta, int num_rows, float* x, int64_t width) {
  each_rows(*pool_, num_rows, hidden_size_ * shape_.num_streams, [&](int row) {
    for (int stream = 1; stream < shape_.num_streams; ++stream)
      isa_.layers->add(delta + int64_t(row) * hidden_size_, nullptr, hidden_size_,
                       x + row * width + int64_t(stream) * hidden_size_);
  });
}

void Streams::join(const std::vector<const Matrix*>& matrices, int num_rows, float* x, int64_t width) {
  require(int(matrices.size()) == shape_.num_streams - 1, "every stream but the first has a matrix");
  const int all = shape_.num_streams * hidden_size_;
  for (size_t i = 0; i < matrices.size(); ++i) {
    require(has_shape(matrices[i], hidden_size_, hidden_size_), "a stream's matrix must be [hidden size, hidden size]");
    products_.run(x + int64_t(i + 1) * hidden_size_, width, num_rows, *matrices[i], Finish::kStore, Activation::kSilu,
                  before_.get() + int64_t(i + 1) * hidden_size_, all);
  }
  each_rows(*pool_, num_rows, all, [&](int row) {
    float *first = x + row * width, *others = before_.get() + int64_t(row) * all;
    for (int stream = 1; stream < shape_.num_streams; ++stream)
      match_magnitude(first, others + int64_t(stream) * hidden_size_);
    for (int stream = 1; stream < shape_.num_streams; ++stream)
      isa_.layers->add(others + int64_t(stream) * hidden_size_, nullptr, hidden_size_, first);
    isa_.layers->scale(1.0f / float(shape_.num_streams), hidden_size_, first);
  });
}

}  // namespace shoal

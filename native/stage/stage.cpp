#include "stage.h"

#include <algorithm>
#include <stdexcept>

namespace shoal {

namespace {

constexpr int kItemValues = 1 << 14;  // of a row-by-row operation in one item at least: some microseconds

void require(bool condition, const char* message) {
  if (!condition) throw std::invalid_argument(message);
}

bool has_shape(const Matrix* matrix, int num_outputs, int num_inputs) {
  return matrix != nullptr && matrix->num_outputs == num_outputs && matrix->num_inputs == num_inputs;
}

}  // namespace

Stage::Stage(std::shared_ptr<ThreadPool> pool, const Isa& isa, const StageShape& shape, std::vector<StageLayer> layers)
    : pool_(std::move(pool)), isa_(isa), shape_(shape), layers_(std::move(layers)) {
  require(shape.hidden_size >= 1 && shape.head_dim >= 1 && shape.max_rows >= 1 && shape.num_heads >= 0 &&
              shape.num_kv_heads >= 0 && shape.intermediate_size >= 0,
          "sizes of a stage must be positive");
  for (const StageLayer& layer : layers_) check(layer);
  widest_ = std::max({shape.hidden_size, out_width(), shape.intermediate_size});
  const size_t rows = shape.max_rows, blocks = rows * ((widest_ + kBlockInputs - 1) / kBlockInputs);
  normed_ = allocate<float>(rows * shape.hidden_size);
  qkv_ = allocate<float>(rows * qkv_width());
  attention_ = allocate<float>(rows * out_width());
  hidden_ = allocate<float>(rows * shape.intermediate_size);
  delta_ = allocate<float>(rows * shape.hidden_size);
  codes_ = allocate<int8_t>(blocks * kBlockInputs);
  if (shape.exact_activations) low_codes_ = allocate<int8_t>(blocks * kBlockInputs);
  scales_ = allocate<float>(blocks);
  for (int i = 0; i < 2; ++i) {
    sums_[i] = allocate<int32_t>(blocks * (i + 1));
    scaled_sums_[i] = allocate<float>(blocks * (i + 1));
  }
  const auto needs_up = [](const StageLayer& layer) { return !can_gate(*layer.gate, *layer.up); };
  if (std::any_of(layers_.begin(), layers_.end(), needs_up)) up_ = allocate<float>(rows * shape.intermediate_size);
}

void Stage::check(const StageLayer& layer) const {
  const int hidden = shape_.hidden_size, kv_width = shape_.num_kv_heads * shape_.head_dim;
  require(has_shape(layer.gate, shape_.intermediate_size, hidden) && has_shape(layer.up, shape_.intermediate_size, hidden),
          "gate and up must be [intermediate size, hidden size]");
  require(has_shape(layer.down, hidden, shape_.intermediate_size), "down must be [hidden size, intermediate size]");
  require(layer.attn_norm != nullptr && layer.mlp_norm != nullptr, "a layer needs both of its norms");
  require((layer.q_norm == nullptr) == (layer.k_norm == nullptr), "q and k must both have a norm or neither");
  require((layer.attention == nullptr) == (shape_.num_heads == 0), "a layer with heads needs attention");
  if (shape_.num_heads == 0) return;
  require(has_shape(layer.q, out_width(), hidden), "q must be [heads x head_dim, hidden size]");
  require(has_shape(layer.k, kv_width, hidden) && has_shape(layer.v, kv_width, hidden),
          "k and v must be [kv heads x head_dim, hidden size]");
  require(has_shape(layer.o, hidden, out_width()), "o must be [hidden size, heads x head_dim]");
  require(layer.attention->qkv_width() == qkv_width() && layer.attention->out_width() == out_width(),
          "attention must have the stage's heads");
}

// Cuts rows into items and calls work(row) for each row.
template <typename Work>
void Stage::each_rows(int num_rows, int width, const Work& work) {
  const int rows_per_item = std::max(1, kItemValues / std::max(1, width));
  const int items = (num_rows + rows_per_item - 1) / rows_per_item;
  pool_->each(items, [&](int item) {
    const int end = std::min(num_rows, (item + 1) * rows_per_item);
    for (int row = item * rows_per_item; row < end; ++row) work(row);
  });
}

ActivationRows Stage::rows_of(const float* values, int num_rows, int width) {
  return {num_rows,
          width,
          (width + kBlockInputs - 1) / kBlockInputs,
          values,
          width,
          codes_.get(),
          low_codes_.get(),
          scales_.get(),
          {sums_[0].get(), sums_[1].get()},
          {scaled_sums_[0].get(), scaled_sums_[1].get()}};
}

void Stage::quantize(ActivationRows& rows, bool is_dense) {
  if (is_dense) return;
  each_rows(rows.num_rows, rows.num_inputs, [&](int row) { isa_.gemm->quantize(rows, row, 1); });
}

// The norm of rows of x (of those named, or the first ones) and its codes.
void Stage::norm_rows(const float* x, const int* rows, int num_rows, const float* weight, bool is_dense) {
  const int width = shape_.hidden_size;
  const ActivationRows normed = rows_of(normed_.get(), num_rows, width);
  each_rows(num_rows, width, [&](int row) {
    const float* from = x + int64_t(rows == nullptr ? row : rows[row]) * width;
    isa_.layers->norm(from, weight, shape_.norm_epsilon, width, normed_.get() + int64_t(row) * width);
    if (!is_dense) isa_.gemm->quantize(normed, row, 1);
  });
}

void Stage::run(float* x, StepMetadata& step, const SumOverShards& sum) {
  require(step.num_tokens() <= shape_.max_rows, "the step has more rows than the stage was made for");
  for (const StageLayer& layer : layers_) {
    attend(layer, x, step, sum);
    feed_forward(layer, x, step.num_tokens(), sum);
  }
}

void Stage::attend(const StageLayer& layer, float* x, StepMetadata& step, const SumOverShards& sum) {
  const int num_rows = step.num_tokens(), width = qkv_width(), kv_width = shape_.num_kv_heads * shape_.head_dim;
  if (shape_.num_heads == 0) {  // a shard without heads adds nothing to the sum
    std::fill_n(delta_.get(), int64_t(num_rows) * shape_.hidden_size, 0.0f);
    sum(delta_.get(), num_rows);
    return add_rows(layer.o_bias, layer.post_attn_norm, num_rows, x);
  }
  const bool any_dense = shoal::is_dense(*layer.q) && shoal::is_dense(*layer.k) && shoal::is_dense(*layer.v);
  norm_rows(x, nullptr, num_rows, layer.attn_norm, any_dense);
  float* qkv = qkv_.get();
  const auto product = [&](const Matrix* matrix, const float* bias, int column) {
    return Product{matrix, nullptr, bias, nullptr, Finish::kStore, shape_.activation, qkv + column, width};
  };
  const Product products[] = {product(layer.q, layer.q_bias, 0), product(layer.k, layer.k_bias, out_width()),
                              product(layer.v, layer.v_bias, out_width() + kv_width)};
  run_products(*pool_, *isa_.gemm, rows_of(normed_.get(), num_rows, shape_.hidden_size), products, 3);
  if (layer.q_norm != nullptr) norm_heads(layer, num_rows);
  layer.attention->run(layer.attention->prepare(step), {qkv, attention_.get(), width, out_width()});
  ActivationRows rows = rows_of(attention_.get(), num_rows, out_width());
  add_product(*layer.o, rows, layer.o_bias, layer.post_attn_norm, x, sum);
}

void Stage::norm_heads(const StageLayer& layer, int num_rows) {
  const int heads = shape_.num_heads + shape_.num_kv_heads, dim = shape_.head_dim;
  each_rows(num_rows, heads * dim, [&](int row) {
    float* at = qkv_.get() + int64_t(row) * qkv_width();
    for (int head = 0; head < heads; ++head, at += dim)
      isa_.layers->norm(at, head < shape_.num_heads ? layer.q_norm : layer.k_norm, shape_.norm_epsilon, dim, at);
  });
}

void Stage::feed_forward(const StageLayer& layer, float* x, int num_rows, const SumOverShards& sum) {
  const int columns = shape_.intermediate_size;
  norm_rows(x, nullptr, num_rows, layer.mlp_norm, shoal::is_dense(*layer.gate) && shoal::is_dense(*layer.up));
  const ActivationRows rows = rows_of(normed_.get(), num_rows, shape_.hidden_size);
  if (can_gate(*layer.gate, *layer.up)) {
    const Product gated{layer.gate,          layer.up,        layer.gate_bias, layer.up_bias,
                        Finish::kGate, shape_.activation, hidden_.get(),   columns};
    run_products(*pool_, *isa_.gemm, rows, &gated, 1);
  } else {
    const Product products[] = {
        {layer.gate, nullptr, layer.gate_bias, nullptr, Finish::kStore, shape_.activation, hidden_.get(), columns},
        {layer.up, nullptr, layer.up_bias, nullptr, Finish::kStore, shape_.activation, up_.get(), columns}};
    run_products(*pool_, *isa_.gemm, rows, products, 2);
    each_rows(num_rows, columns, [&](int row) {
      float* gate = hidden_.get() + int64_t(row) * columns;
      isa_.layers->gate(shape_.activation, gate, up_.get() + int64_t(row) * columns, columns, gate);
    });
  }
  ActivationRows hidden = rows_of(hidden_.get(), num_rows, columns);
  add_product(*layer.down, hidden, layer.down_bias, layer.post_mlp_norm, x, sum);
}

void Stage::add_product(const Matrix& matrix, ActivationRows& rows, const float* bias, const float* post_norm, float* x,
                        const SumOverShards& sum) {
  quantize(rows, shoal::is_dense(matrix));
  const bool is_plain = !sum && post_norm == nullptr;
  const Product product{&matrix,
                        nullptr,
                        is_plain ? bias : nullptr,
                        nullptr,
                        is_plain ? Finish::kAdd : Finish::kStore,
                        shape_.activation,
                        is_plain ? x : delta_.get(),
                        shape_.hidden_size};
  run_products(*pool_, *isa_.gemm, rows, &product, 1);
  if (is_plain) return;
  if (sum) sum(delta_.get(), rows.num_rows);
  add_rows(bias, post_norm, rows.num_rows, x);
}

// The delta with its bias and norm, added to the residual stream. The bias belongs to the whole sum, once.
void Stage::add_rows(const float* bias, const float* post_norm, int num_rows, float* x) {
  const int width = shape_.hidden_size;
  each_rows(num_rows, width, [&](int row) {
    float *to = x + int64_t(row) * width, *delta = delta_.get() + int64_t(row) * width;
    if (post_norm == nullptr) return isa_.layers->add(delta, bias, width, to);
    if (bias != nullptr)
      for (int i = 0; i < width; ++i) delta[i] += bias[i];
    isa_.layers->norm(delta, post_norm, shape_.norm_epsilon, width, delta);
    isa_.layers->add(delta, nullptr, width, to);
  });
}

void Stage::logits(const float* x, const int* rows, int num_rows, const StageHead& head, float* out) {
  require(num_rows <= shape_.max_rows, "more rows than the stage was made for");
  require(head.matrix->num_inputs == shape_.hidden_size, "the head must be [vocabulary, hidden size]");
  norm_rows(x, rows, num_rows, head.norm, shoal::is_dense(*head.matrix));
  const int width = head.matrix->num_outputs;
  const Product product{head.matrix, nullptr, nullptr, nullptr, Finish::kStore, shape_.activation, out, width};
  run_products(*pool_, *isa_.gemm, rows_of(normed_.get(), num_rows, shape_.hidden_size), &product, 1);
  if (head.softcap <= 0.0f) return;
  each_rows(num_rows, width, [&](int row) { isa_.layers->softcap(head.softcap, width, out + int64_t(row) * width); });
}

}  // namespace shoal

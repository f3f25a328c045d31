// The first half of a layer: attention, or a recurrence instead, and attention over an encoder's output.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "../require.h"
#include "../threads/each_rows.h"
#include "layer_needs.h"
#include "stage.h"

namespace shoal {

namespace {

bool needs_norm(const StageLayer& layer) {
  return layer.q_norm != nullptr || layer.v_norm != nullptr || layer.v == nullptr;
}

}  // namespace

void Stage::attend(const StageLayer& layer, float* x, StepMetadata& step, const SumOverShards& sum) {
  const int num_rows = step.num_tokens();
  const bool has_heads = shape_.num_heads > 0;
  if (has_heads || streams_) {
    const ActivationRows rows = norm_rows(x, nullptr, num_rows, layer.attn_norm, layer.attn_norm_bias,
                                          has_heads && qkv_needs_codes(layer));
    if (streams_) streams_->project(*layer.streams, rows);
    if (has_heads) attend_rows(layer, rows, step);
  }
  has_heads ? add_projected(layer, step, x, sum)
            : add_sum_of_others(layer.o_bias, layer.post_attn_norm, num_rows, x, sum);
  if (streams_) streams_->add_residual(num_rows, x);
}

void Stage::attend_rows(const StageLayer& layer, const ActivationRows& rows, StepMetadata& step) {
  const int num_rows = step.num_tokens(), width = layer.qkv_width(), q_width = layer.q_width();
  float* qkv = qkv_.get();
  if (layer.latent != nullptr)
    return latent_->run(*layer.latent, *layer.attention, rows, step, qkv, attention_.get());
  const auto product = [&](const Matrix* matrix, const float* bias, int column) {
    return Product{matrix,       nullptr,           bias,         nullptr, Finish::kStore,
                   shape_.activation, qkv + column, width, {0, num_rows}};
  };
  products_.assign({product(layer.q, layer.q_bias, 0)});
  if (layer.k != nullptr) products_.push_back(product(layer.k, layer.k_bias, q_width));
  if (layer.v != nullptr) products_.push_back(product(layer.v, layer.v_bias, q_width + layer.kv_width()));
  if (layer.q_gate != nullptr)
    products_.push_back({layer.q_gate, nullptr, layer.q_gate_bias, nullptr, Finish::kStore, shape_.activation,
                         gates_.get(), q_width, {0, num_rows}});
  const StepAdapters adapters = adapters_of(layer, step);
  adapters.append(AdapterPlace::kAttentionIn, products_);
  run_products(*pool_, *isa_.gemm, rows, products_.data(), int(products_.size()));
  const AdapterOutput outputs[] = {
      {qkv, width}, {qkv + q_width, width}, {qkv + q_width + layer.kv_width(), width}, {gates_.get(), q_width}};
  adapters.add(AdapterPlace::kAttentionIn, outputs);
  if (needs_norm(layer)) norm_heads(layer, num_rows);
  layer.attention->run(layer.attention->prepare(step), {qkv, attention_.get(), width, q_width});
  if (layer.q_gate == nullptr) return;
  each_rows(*pool_, num_rows, q_width, [&](int row) {
    float* gate = gates_.get() + int64_t(row) * q_width;
    isa_.layers->sigmoid(q_width, gate);
    isa_.layers->multiply(gate, q_width, attention_.get() + int64_t(row) * q_width);
  });
}

// Values that equal keys are copied before the keys are normed.
void Stage::norm_heads(const StageLayer& layer, int num_rows, bool has_queries) {
  const int dim = layer.attention->view().head_dim, q_width = layer.q_width(), kv_width = layer.kv_width();
  each_rows(*pool_, num_rows, layer.qkv_width(), [&](int row) {
    float *q = qkv_.get() + int64_t(row) * layer.qkv_width(), *k = q + q_width, *v = k + kv_width;
    if (layer.v == nullptr) std::copy_n(k, kv_width, v);
    if (shape_.joins_qk_norm) {
      if (has_queries) norm(q, layer.q_norm, nullptr, q_width, q);
      norm(k, layer.k_norm, nullptr, kv_width, k);
      return;
    }
    const int step = shape_.parts_qk_norm ? 1 : 0;
    for (int at = 0; at < q_width && layer.q_norm != nullptr && has_queries; at += dim)
      norm(q + at, layer.q_norm + at * step, nullptr, dim, q + at);
    for (int at = 0; at < kv_width && layer.k_norm != nullptr; at += dim)
      norm(k + at, layer.k_norm + at * step, nullptr, dim, k + at);
    for (int at = 0; at < kv_width && layer.v_norm != nullptr; at += dim)
      norm(v + at, layer.v_norm, nullptr, dim, v + at);
  });
}

bool Stage::has_plain_end() const {
  if (layers_.empty() || hidden_) return false;
  const StageLayer& last = layers_.back();
  const bool only_reads = last.attention != nullptr && last.attention->view().only_reads;
  return last.has_mixer && last.recurrent == nullptr && last.latent == nullptr && last.cross == nullptr && !only_reads;
}

// Rows that are read move to the front, and back to their places afterwards.
void Stage::run_tails(float* x, StepMetadata& step, const std::vector<int32_t>& counts, const SumOverShards& sum) {
  StepMetadata tails = step.tails(counts);
  const int width = shape_.hidden_size;
  if (layers_.back().attention != nullptr) keep_keys(layers_.back(), x, step);
  if (tails.num_tokens() == 0) return;
  const auto move = [&](int sequence, bool is_back) {
    const int rows = counts[sequence];
    float *place = x + int64_t(step.end_row(sequence) - rows) * width, *front = x + int64_t(tails.first_row(sequence)) * width;
    std::memmove(is_back ? place : front, is_back ? front : place, sizeof(float) * size_t(rows) * width);
  };
  for (int b = 0; b < step.num_sequences(); ++b) move(b, false);
  run_layer(layers_.size() - 1, x, tails, nullptr, sum);
  for (int b = step.num_sequences() - 1; b >= 0; --b) move(b, true);
}

void Stage::keep_keys(const StageLayer& layer, const float* x, StepMetadata& step) {
  const int num_rows = step.num_tokens(), width = layer.qkv_width(), q_width = layer.q_width();
  const bool has_codes = !is_dense(*layer.k) || (layer.v != nullptr && !is_dense(*layer.v));
  const ActivationRows rows = norm_rows(x, nullptr, num_rows, layer.attn_norm, layer.attn_norm_bias, has_codes);
  const auto product = [&](const Matrix* matrix, const float* bias, int column) {
    return Product{matrix,       nullptr,           bias,         nullptr, Finish::kStore,
                   shape_.activation, qkv_.get() + column, width, {0, num_rows}};
  };
  products_.assign({product(layer.k, layer.k_bias, q_width)});
  if (layer.v != nullptr) products_.push_back(product(layer.v, layer.v_bias, q_width + layer.kv_width()));
  run_products(*pool_, *isa_.gemm, rows, products_.data(), int(products_.size()));
  if (needs_norm(layer)) norm_heads(layer, num_rows, false);
  layer.attention->append(layer.attention->prepare(step), {qkv_.get(), nullptr, width, 0});
}

// The product of attention's result with `o`, added to the residual stream.
void Stage::add_projected(const StageLayer& layer, const StepMetadata& step, float* x, const SumOverShards& sum) {
  const int num_rows = step.num_tokens();
  const StepAdapters adapters = adapters_of(layer, step);
  if (adds_plainly(layer.post_attn_norm, sum))
    return project(*layer.o, num_rows, Finish::kAdd, layer.o_bias, x, adapters);
  project(*layer.o, num_rows, Finish::kStore, nullptr, delta_.get(), adapters);
  if (sum) sum_delta(num_rows, sum);
  add_rows(layer.o_bias, nullptr, layer.post_attn_norm, num_rows, x);
}

// The product of attention's result with `o`.
void Stage::project(const Matrix& o, int num_rows, Finish finish, const float* bias, float* out,
                    const StepAdapters& adapters) {
  const int width = o.num_inputs;
  const ActivationRows rows = codes_.of(attention_.get(), num_rows, width);
  if (!is_dense(o))
    each_rows(*pool_, num_rows, width, [&](int row) { isa_.gemm->quantize(rows, row, 1); });
  products_.assign({Product{&o,                nullptr, bias,               nullptr,       finish,
                            shape_.activation, out,     shape_.hidden_size, {0, num_rows}}});
  adapters.append(AdapterPlace::kAttentionOut, products_);
  run_products(*pool_, *isa_.gemm, rows, products_.data(), int(products_.size()));
  const AdapterOutput output{out, shape_.hidden_size};
  adapters.add(AdapterPlace::kAttentionOut, &output);
}

void Stage::recur(const StageLayer& layer, float* x, StepMetadata& step, const SumOverShards& sum) {
  const RecurrentHalf& recurrent = *layer.recurrent;
  const int num_rows = step.num_tokens();
  const bool is_divided = sum && recurrent.norm_channels > 0;
  float* squares = is_divided ? delta_.get() + int64_t(num_rows) * shape_.hidden_size : nullptr;
  if (recurrent.layer == nullptr) {
    if (!is_divided) return add_sum_of_others(layer.o_bias, layer.post_attn_norm, num_rows, x, sum);
    std::fill_n(delta_.get(), int64_t(num_rows) * (shape_.hidden_size + 1), 0.0f);
    return add_divided(layer, num_rows, x, sum);
  }
  require(step.states() != nullptr, "a step for recurrent layers needs state slots");
  const auto takes_codes = [](const RecurrentHalf::Input& input) { return !is_dense(*input.matrix); };
  const bool has_codes = std::any_of(recurrent.inputs.begin(), recurrent.inputs.end(), takes_codes);
  const ActivationRows rows = norm_rows(x, nullptr, num_rows, layer.attn_norm, layer.attn_norm_bias, has_codes);
  std::vector<Product> products;
  const int width = recurrent.layer->in_width();
  float* to = qkv_.get();
  for (const RecurrentHalf::Input& input : recurrent.inputs) {
    products.push_back({input.matrix, nullptr, input.bias, nullptr, Finish::kStore, shape_.activation, to, width,
                        {0, num_rows}});
    to += input.matrix->num_outputs;
  }
  run_products(*pool_, *isa_.gemm, rows, products.data(), int(products.size()));
  recurrent.layer->run(*step.states(), qkv_.get(), attention_.get(), squares);
  if (!is_divided) return add_projected(layer, step, x, sum);
  project(*layer.o, num_rows, Finish::kStore, nullptr, delta_.get(), adapters_of(layer, step));
  add_divided(layer, num_rows, x, sum);
}

// Adds the shards' parts of a product whose rows must still be divided by a norm over the channels of all shards: both
// the product and the sums of squares are summed, and the product is divided afterwards, since it is linear.
void Stage::add_divided(const StageLayer& layer, int num_rows, float* x, const SumOverShards& sum) {
  const int64_t width = shape_.hidden_size;
  sum(delta_.get(), size_t(num_rows) * (width + 1));
  const float *squares = delta_.get() + num_rows * width, channels = float(layer.recurrent->norm_channels);
  for (int row = 0; row < num_rows; ++row) {
    const float rms = std::sqrt(squares[row] / channels + layer.recurrent->norm_epsilon);
    isa_.layers->scale(1.0f / rms, int(width), delta_.get() + row * width);
  }
  add_rows(layer.o_bias, nullptr, layer.post_attn_norm, num_rows, x);
}

void Stage::attend_memories(const CrossHalf& cross, float* x, StepMetadata& memories, float* queries) {
  const int num_rows = memories.num_tokens(), width = cross.attention->qkv_width();
  const ActivationRows rows = norm_rows(x, nullptr, num_rows, cross.norm, cross.norm_bias, !is_dense(*cross.q));
  const Product product{cross.q,           nullptr,    cross.q_bias, nullptr, Finish::kStore,
                        shape_.activation, qkv_.get(), width,        {0, num_rows}};
  run_products(*pool_, *isa_.gemm, rows, &product, 1);
  const int q_width = cross.attention->out_width();
  for (int row = 0; queries != nullptr && row < num_rows; ++row)
    std::copy_n(qkv_.get() + int64_t(row) * width, q_width, queries + int64_t(row) * q_width);
  cross.attention->attend(cross.attention->prepare(memories), {qkv_.get(), attention_.get(), width, q_width});
  project(*cross.o, num_rows, Finish::kAdd, cross.o_bias, x);
}

void Stage::remember(const float* memory, StepMetadata& step) {
  const int num_rows = step.num_tokens();
  require(num_rows <= shape_.max_rows, "an encoder's output has more rows than the stage was made for");
  const auto takes_codes = [](const StageLayer& layer) {
    return layer.cross != nullptr && (!is_dense(*layer.cross->k) || !is_dense(*layer.cross->v));
  };
  const bool has_codes = std::any_of(layers_.begin(), layers_.end(), takes_codes);
  const ActivationRows rows = norm_rows(memory, nullptr, num_rows, nullptr, nullptr, has_codes);
  for (const StageLayer& layer : layers_) {
    if (layer.cross == nullptr) continue;
    const CrossHalf& cross = *layer.cross;
    const int width = cross.attention->qkv_width(), q_width = cross.attention->out_width();
    const auto product = [&](const Matrix* matrix, const float* bias, int column) {
      return Product{matrix,            nullptr,             bias,  nullptr, Finish::kStore,
                     shape_.activation, qkv_.get() + column, width, {0, num_rows}};
    };
    const Product products[] = {product(cross.k, cross.k_bias, q_width),
                                product(cross.v, cross.v_bias, q_width + cross.attention->kv_width())};
    run_products(*pool_, *isa_.gemm, rows, products, 2);
    cross.attention->append(cross.attention->prepare(step), {qkv_.get(), nullptr, width, 0});
  }
}

}  // namespace shoal

#include "stage.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "../threads/each_rows.h"

namespace shoal {

namespace {

void require(bool condition, const char* message) {
  if (!condition) throw std::invalid_argument(message);
}

bool has_shape(const Matrix* matrix, int num_outputs, int num_inputs) {
  return matrix != nullptr && matrix->num_outputs == num_outputs && matrix->num_inputs == num_inputs;
}

bool qkv_needs_codes(const StageLayer& layer) {
  if (layer.latent != nullptr) return LatentRunner::needs_codes(*layer.latent);
  return !is_dense(*layer.q) || !is_dense(*layer.k) || !is_dense(*layer.v) ||
         (layer.q_gate != nullptr && !is_dense(*layer.q_gate));
}

bool mlp_needs_codes(const StageLayer& layer) {
  return layer.experts != nullptr ? needs_codes(*layer.experts) : needs_codes(layer.mlp);
}

bool has_adapters(const StageLayer& layer, AdapterPlace place) {
  const auto has = [place](const LayerAdapter& adapter) { return adapter.groups[int(place)].a != nullptr; };
  return std::any_of(layer.adapters.begin(), layer.adapters.end(), has);
}

bool mlp_needs_up(const StageLayer& layer) {
  if (layer.experts != nullptr) return false;
  return needs_up(layer.mlp) || (layer.mlp.gate != nullptr && has_adapters(layer, AdapterPlace::kMlpIn));
}

std::vector<const ExpertLayer*> experts_of(const std::vector<StageLayer>& layers) {
  std::vector<const ExpertLayer*> found;
  for (const StageLayer& layer : layers)
    if (layer.experts != nullptr) found.push_back(layer.experts.get());
  return found;
}

}  // namespace

Stage::Stage(std::shared_ptr<ThreadPool> pool, const Isa& isa, const StageShape& shape, std::vector<StageLayer> layers)
    : pool_(std::move(pool)),
      isa_(isa),
      shape_(shape),
      layers_(std::move(layers)),
      codes_(shape.max_rows, std::max(shape.hidden_size, most_outputs()), shape.exact_activations) {
  require(shape.hidden_size >= 1 && shape.head_dim >= 1 && shape.max_rows >= 1 && shape.num_heads >= 0 &&
              shape.num_kv_heads >= 0 && shape.intermediate_size >= 0,
          "sizes of a stage must be positive");
  if (shape.latent && shape.num_heads > 0)
    latent_ = std::make_unique<LatentRunner>(pool_, isa_, *shape.latent, shape.num_heads, shape.hidden_size,
                                             shape.max_rows, shape.exact_activations);
  for (const StageLayer& layer : layers_) check(layer);
  const size_t rows = shape.max_rows;
  normed_ = allocate<float>(rows * shape.hidden_size);
  qkv_ = allocate<float>(rows * most_inputs());
  attention_ = allocate<float>(rows * most_outputs());
  delta_ = allocate<float>(rows * (shape.hidden_size + 1));
  if (std::any_of(layers_.begin(), layers_.end(), [](const StageLayer& layer) { return layer.q_gate != nullptr; }))
    gates_ = allocate<float>(rows * out_width());
  for (const StageLayer& layer : layers_)
    expert_rows_.emplace_back(layer.experts == nullptr ? 0 : shape.experts->router.num_experts);
  const std::vector<const ExpertLayer*> experts = experts_of(layers_);
  const auto has_plain_mlp = [](const StageLayer& layer) { return layer.has_mlp && layer.experts == nullptr; };
  if (std::any_of(layers_.begin(), layers_.end(), has_plain_mlp))
    mlps_ = std::make_unique<MlpRunner>(
        pool_, isa_, shape.activation,
        MlpRunner::Limits{shape.max_rows, 1, shape.intermediate_size,
                          std::any_of(layers_.begin(), layers_.end(), mlp_needs_up), shape.exact_activations});
  if (!experts.empty())
    experts_ = std::make_unique<ExpertsRunner>(pool_, isa_, shape.activation, *shape.experts, shape.hidden_size,
                                               shape.max_rows, shape.exact_activations, experts);
  std::vector<const LayerAdapters*> adapters;
  for (const StageLayer& layer : layers_)
    if (!layer.adapters.empty()) adapters.push_back(&layer.adapters);
  if (!adapters.empty()) adapters_ = std::make_unique<AdapterRunner>(pool_, isa_, shape.max_rows, adapters);
}

// Which products there are to add to: none of what is recurrent or an expert, and of latent attention the last.
void Stage::check_adapters(const StageLayer& layer) const {
  const bool has_heads = layer.attention != nullptr, has_inputs = has_heads && !shape_.latent;
  const bool has_mlp = layer.has_mlp && layer.experts == nullptr && shape_.intermediate_size > 0;
  const Matrix* of[kAdapterPlaces][kAdapterParts] = {
      {has_inputs ? layer.q : nullptr, has_inputs ? layer.k : nullptr, has_inputs ? layer.v : nullptr,
       has_inputs ? layer.q_gate : nullptr},
      {has_heads ? layer.o : nullptr},
      {has_mlp ? layer.mlp.gate : nullptr, has_mlp ? layer.mlp.up : nullptr},
      {has_mlp ? layer.mlp.down : nullptr}};
  for (const LayerAdapter& adapter : layer.adapters)
    for (int place = 0; place < kAdapterPlaces; ++place)
      for (int i = 0; i < kAdapterParts; ++i) {
        const Matrix *b = adapter.groups[place].parts[i].b, *a = adapter.groups[place].a, *matrix = of[place][i];
        require(b == nullptr || (matrix != nullptr && a != nullptr && b->num_outputs == matrix->num_outputs &&
                                 a->num_inputs == matrix->num_inputs),
                "an adapter must have the inputs and outputs of the product that it is added to");
      }
}

void Stage::check(const StageLayer& layer) const {
  check_adapters(layer);
  const bool has_both = layer.has_mixer && layer.has_mlp;
  if (layer.has_mlp && layer.experts == nullptr && shape_.intermediate_size > 0)
    check_mlp(layer.mlp, shape_.hidden_size, shape_.intermediate_size);
  require(has_both || !shape_.is_parallel, "a parallel layer has both of its halves");
  require(layer.experts == nullptr || shape_.experts.has_value(), "a layer has experts and the stage none");
  require(!has_both || shape_.is_parallel || (layer.attn_norm == nullptr) == (layer.mlp_norm == nullptr),
          "a layer has both of its norms or neither");
  require(!shape_.is_parallel || (layer.post_attn_norm == nullptr && layer.post_mlp_norm == nullptr),
          "a parallel layer has no norms behind its halves");
  if (layer.has_mixer) check_mixer(layer);
}

void Stage::check_mixer(const StageLayer& layer) const {
  const int hidden = shape_.hidden_size, kv_width = shape_.num_kv_heads * shape_.head_dim;
  require((layer.q_norm == nullptr) == (layer.k_norm == nullptr), "q and k must both have a norm or neither");
  if (layer.cross != nullptr) check_cross(*layer.cross);
  if (layer.recurrent != nullptr) return check_recurrent(layer);
  require((layer.attention == nullptr) == (shape_.num_heads == 0), "a layer with heads needs attention");
  if (shape_.num_heads == 0) return;
  require((layer.latent == nullptr) == !shape_.latent, "all layers have latent attention or none");
  if (layer.latent != nullptr) {
    require(shape_.num_kv_heads == 1 && shape_.head_dim == shape_.latent->rotary_dim + shape_.latent->latent_dim,
            "latent attention has one key head, of the rotated part and the latent");
    require(layer.q_gate == nullptr, "latent attention has no gate");
    latent_->check(*layer.latent);
  } else {
    require(has_shape(layer.q, out_width(), hidden), "q must be [heads x head_dim, hidden size]");
    require(has_shape(layer.k, kv_width, hidden) && has_shape(layer.v, kv_width, hidden),
            "k and v must be [kv heads x head_dim, hidden size]");
    require(layer.q_gate == nullptr || has_shape(layer.q_gate, out_width(), hidden),
            "a gate must be [heads x head_dim, hidden size]");
  }
  require(has_shape(layer.o, hidden, result_width()), "o must be [hidden size, heads x head_dim]");
  require(layer.attention->qkv_width() == qkv_width() && layer.attention->out_width() == out_width(),
          "attention must have the stage's heads");
}

void Stage::check_cross(const CrossHalf& cross) const {
  const int hidden = shape_.hidden_size, kv_width = shape_.num_kv_heads * shape_.head_dim;
  require(!shape_.is_parallel && !shape_.latent && shape_.residual_scale == 1.0f,
          "a layer of this kind has no attention over an encoder's output");
  require(cross.attention != nullptr && cross.norm != nullptr, "attention over an encoder's output needs its norm");
  require(has_shape(cross.q, out_width(), hidden) && has_shape(cross.k, kv_width, hidden) &&
              has_shape(cross.v, kv_width, hidden) && has_shape(cross.o, hidden, out_width()),
          "matrices over an encoder's output must have the sizes of the layer's own attention");
  require(cross.attention->qkv_width() == qkv_width() && cross.attention->out_width() == out_width() &&
              cross.attention->view().sees_all,
          "attention over an encoder's output must have the stage's heads and see all of it");
}

void Stage::check_recurrent(const StageLayer& layer) const {
  const RecurrentHalf& recurrent = *layer.recurrent;
  if (recurrent.layer == nullptr) return;
  require(!shape_.is_parallel, "a parallel layer has attention");
  int64_t width = 0;
  for (const RecurrentHalf::Input& input : recurrent.inputs) {
    require(input.matrix != nullptr && input.matrix->num_inputs == shape_.hidden_size,
            "inputs of a recurrence must be [values, hidden size]");
    width += input.matrix->num_outputs;
  }
  require(width == recurrent.layer->in_width(), "inputs of a recurrence must be as wide as it");
  require(has_shape(layer.o, shape_.hidden_size, recurrent.layer->out_width()),
          "o must be [hidden size, width of the recurrence]");
}

int Stage::most_inputs() const {
  int most = qkv_width();
  for (const StageLayer& layer : layers_)
    if (layer.recurrent != nullptr && layer.recurrent->layer != nullptr)
      most = std::max(most, layer.recurrent->layer->in_width());
  return most;
}

int Stage::most_outputs() const {
  int most = result_width();
  for (const StageLayer& layer : layers_)
    if (layer.recurrent != nullptr && layer.recurrent->layer != nullptr)
      most = std::max(most, layer.recurrent->layer->out_width());
  return most;
}

ActivationRows Stage::norm_rows(const float* x, const int* rows, int num_rows, const float* weight, const float* bias,
                                bool has_codes) {
  const int width = shape_.hidden_size;
  const ActivationRows normed = codes_.of(normed_.get(), num_rows, width);
  each_rows(*pool_, num_rows, width, [&](int row) {
    const float* from = x + int64_t(rows == nullptr ? row : rows[row]) * width;
    float* to = normed_.get() + int64_t(row) * width;
    if (weight == nullptr) {
      std::copy_n(from, width, to);
    } else {
      norm(from, weight, bias, width, to);
    }
    if (has_codes) isa_.gemm->quantize(normed, row, 1);
  });
  return normed;
}

void Stage::norm(const float* x, const float* weight, const float* bias, int width, float* to) const {
  if (shape_.centers_norms) return isa_.layers->center(x, weight, bias, shape_.norm_epsilon, width, to);
  isa_.layers->norm(x, weight, shape_.norm_epsilon, width, to);
}

void Stage::run(float* x, StepMetadata& step, StepMetadata* memories, const SumOverShards& sum) {
  require(step.num_tokens() <= shape_.max_rows, "the step has more rows than the stage was made for");
  require(memories == nullptr || memories->num_tokens() == step.num_tokens(), "memories must have the step's rows");
  for (size_t i = 0; i < layers_.size(); ++i) {
    if (shape_.is_parallel) {
      run_parallel(i, x, step, sum);
      continue;
    }
    const StageLayer& layer = layers_[i];
    if (layer.has_mixer) layer.recurrent != nullptr ? recur(layer, x, step, sum) : attend(layer, x, step, sum);
    if (layer.cross != nullptr) {
      require(memories != nullptr && !sum, "a layer over an encoder's output needs it, and is not sharded");
      attend_memories(*layer.cross, x, *memories);
    }
    if (layer.has_mlp) feed_forward(i, x, step, sum);
  }
}

void Stage::attend_memories(const CrossHalf& cross, float* x, StepMetadata& memories) {
  const int num_rows = memories.num_tokens(), width = qkv_width();
  const ActivationRows rows = norm_rows(x, nullptr, num_rows, cross.norm, cross.norm_bias, !is_dense(*cross.q));
  const Product product{cross.q,           nullptr,    cross.q_bias, nullptr, Finish::kStore,
                        shape_.activation, qkv_.get(), width,        {0, num_rows}};
  run_products(*pool_, *isa_.gemm, rows, &product, 1);
  cross.attention->attend(cross.attention->prepare(memories), {qkv_.get(), attention_.get(), width, out_width()});
  project(*cross.o, num_rows, Finish::kAdd, cross.o_bias, x);
}

void Stage::remember(const float* memory, StepMetadata& step) {
  const int num_rows = step.num_tokens(), width = qkv_width(), kv_width = shape_.num_kv_heads * shape_.head_dim;
  require(num_rows <= shape_.max_rows, "an encoder's output has more rows than the stage was made for");
  const auto takes_codes = [](const StageLayer& layer) {
    return layer.cross != nullptr && (!is_dense(*layer.cross->k) || !is_dense(*layer.cross->v));
  };
  const bool has_codes = std::any_of(layers_.begin(), layers_.end(), takes_codes);
  const ActivationRows rows = norm_rows(memory, nullptr, num_rows, nullptr, nullptr, has_codes);
  for (const StageLayer& layer : layers_) {
    if (layer.cross == nullptr) continue;
    const CrossHalf& cross = *layer.cross;
    const auto product = [&](const Matrix* matrix, const float* bias, int column) {
      return Product{matrix,            nullptr,             bias,  nullptr, Finish::kStore,
                     shape_.activation, qkv_.get() + column, width, {0, num_rows}};
    };
    const Product products[] = {product(cross.k, cross.k_bias, out_width()),
                                product(cross.v, cross.v_bias, out_width() + kv_width)};
    run_products(*pool_, *isa_.gemm, rows, products, 2);
    cross.attention->append(cross.attention->prepare(step), {qkv_.get(), nullptr, width, 0});
  }
}

// The MLP goes first: attention's norm is not needed any more when the MLP has another, and attention's projection is
// added to what the MLP has stored.
void Stage::run_parallel(size_t index, float* x, StepMetadata& step, const SumOverShards& sum) {
  const StageLayer& layer = layers_[index];
  const int num_rows = step.num_tokens();
  const bool has_heads = shape_.num_heads > 0, has_mlp = layer.experts != nullptr || shape_.intermediate_size > 0;
  const bool has_codes = (has_heads && qkv_needs_codes(layer)) || (has_mlp && mlp_needs_codes(layer));
  ActivationRows rows = norm_rows(x, nullptr, num_rows, layer.attn_norm, layer.attn_norm_bias, has_codes);
  const StepAdapters adapters = adapters_of(layer, step);
  if (has_heads) attend_rows(layer, rows, step);
  if (layer.mlp_norm != nullptr)
    rows = norm_rows(x, nullptr, num_rows, layer.mlp_norm, layer.mlp_norm_bias, has_codes);
  Mlp mlp = layer.mlp;
  mlp.down_bias = nullptr;  // is added to the sum
  const MlpRows all{&mlp, {0, num_rows}};
  if (layer.experts != nullptr) {
    experts_->run(*layer.experts, rows, step.view().positions, expert_rows_[index].data(), delta_.get());
  } else if (has_mlp) {
    mlps_->run(rows, &all, 1, Finish::kStore, delta_.get(), adapters);
  } else {
    std::fill_n(delta_.get(), int64_t(num_rows) * shape_.hidden_size, 0.0f);
  }
  if (has_heads) project(*layer.o, num_rows, Finish::kAdd, nullptr, delta_.get(), adapters);
  if (sum) sum_delta(num_rows, sum);
  add_rows(layer.o_bias, layer.mlp.down_bias, nullptr, num_rows, x);
}

void Stage::attend(const StageLayer& layer, float* x, StepMetadata& step, const SumOverShards& sum) {
  const int num_rows = step.num_tokens();
  if (shape_.num_heads == 0) return add_sum_of_others(layer.o_bias, layer.post_attn_norm, num_rows, x, sum);
  attend_rows(
      layer, norm_rows(x, nullptr, num_rows, layer.attn_norm, layer.attn_norm_bias, qkv_needs_codes(layer)), step);
  add_projected(layer, step, x, sum);
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

// What shards have of a product whose rows a norm over the channels of all of them still divides, and then the sums of
// squares of rows: both are added up, and the product is divided afterwards, for it is linear.
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

// The product of what attention has left with `o`, added to the residual stream.
void Stage::add_projected(const StageLayer& layer, const StepMetadata& step, float* x, const SumOverShards& sum) {
  const int num_rows = step.num_tokens();
  const StepAdapters adapters = adapters_of(layer, step);
  if (adds_plainly(layer.post_attn_norm, sum))
    return project(*layer.o, num_rows, Finish::kAdd, layer.o_bias, x, adapters);
  project(*layer.o, num_rows, Finish::kStore, nullptr, delta_.get(), adapters);
  if (sum) sum_delta(num_rows, sum);
  add_rows(layer.o_bias, nullptr, layer.post_attn_norm, num_rows, x);
}

void Stage::attend_rows(const StageLayer& layer, const ActivationRows& rows, StepMetadata& step) {
  const int num_rows = step.num_tokens(), width = qkv_width(), kv_width = shape_.num_kv_heads * shape_.head_dim;
  float* qkv = qkv_.get();
  if (layer.latent != nullptr)
    return latent_->run(*layer.latent, *layer.attention, rows, step, qkv, attention_.get());
  const auto product = [&](const Matrix* matrix, const float* bias, int column) {
    return Product{matrix,       nullptr,           bias,         nullptr, Finish::kStore,
                   shape_.activation, qkv + column, width, {0, num_rows}};
  };
  products_.assign({product(layer.q, layer.q_bias, 0), product(layer.k, layer.k_bias, out_width()),
                    product(layer.v, layer.v_bias, out_width() + kv_width)});
  if (layer.q_gate != nullptr)
    products_.push_back({layer.q_gate, nullptr, layer.q_gate_bias, nullptr, Finish::kStore, shape_.activation,
                         gates_.get(), out_width(), {0, num_rows}});
  const StepAdapters adapters = adapters_of(layer, step);
  adapters.append(AdapterPlace::kAttentionIn, products_);
  run_products(*pool_, *isa_.gemm, rows, products_.data(), int(products_.size()));
  const AdapterOutput outputs[] = {
      {qkv, width}, {qkv + out_width(), width}, {qkv + out_width() + kv_width, width}, {gates_.get(), out_width()}};
  adapters.add(AdapterPlace::kAttentionIn, outputs);
  if (layer.q_norm != nullptr) norm_heads(layer, num_rows);
  layer.attention->run(layer.attention->prepare(step), {qkv, attention_.get(), width, out_width()});
  if (layer.q_gate == nullptr) return;
  each_rows(*pool_, num_rows, out_width(), [&](int row) {
    float* gate = gates_.get() + int64_t(row) * out_width();
    isa_.layers->sigmoid(out_width(), gate);
    isa_.layers->multiply(gate, out_width(), attention_.get() + int64_t(row) * out_width());
  });
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

StepAdapters Stage::adapters_of(const StageLayer& layer, const StepMetadata& step) {
  if (step.adapters().empty() || layer.adapters.empty()) return {};
  return {adapters_.get(), layer.adapters, step.adapters()};
}

void Stage::norm_heads(const StageLayer& layer, int num_rows) {
  const int heads = shape_.num_heads + shape_.num_kv_heads, dim = shape_.head_dim;
  each_rows(*pool_, num_rows, heads * dim, [&](int row) {
    float* at = qkv_.get() + int64_t(row) * qkv_width();
    if (shape_.joins_qk_norm) {
      const int kv_width = shape_.num_kv_heads * dim;
      norm(at, layer.q_norm, nullptr, out_width(), at);
      norm(at + out_width(), layer.k_norm, nullptr, kv_width, at + out_width());
      return;
    }
    const int step = shape_.parts_qk_norm ? dim : 0;
    for (int head = 0; head < heads; ++head, at += dim) {
      const int of_k = head - shape_.num_heads;
      norm(at, of_k < 0 ? layer.q_norm + head * step : layer.k_norm + of_k * step, nullptr, dim, at);
    }
  });
}

void Stage::feed_forward(size_t index, float* x, const StepMetadata& step, const SumOverShards& sum) {
  const StageLayer& layer = layers_[index];
  const int num_rows = step.num_tokens();
  if (layer.experts == nullptr && shape_.intermediate_size == 0)
    return add_sum_of_others(layer.mlp.down_bias, layer.post_mlp_norm, num_rows, x, sum);
  const ActivationRows rows =
      norm_rows(x, nullptr, num_rows, layer.mlp_norm, layer.mlp_norm_bias, mlp_needs_codes(layer));
  Mlp mlp = layer.mlp;
  const MlpRows all{&mlp, {0, num_rows}};
  const StepAdapters adapters = adapters_of(layer, step);
  if (layer.experts != nullptr) {
    experts_->run(*layer.experts, rows, step.view().positions, expert_rows_[index].data(), delta_.get());
  } else if (adds_plainly(layer.post_mlp_norm, sum)) {
    return mlps_->run(rows, &all, 1, Finish::kAdd, x, adapters);
  } else {
    mlp.down_bias = nullptr;  // is added to the sum
    mlps_->run(rows, &all, 1, Finish::kStore, delta_.get(), adapters);
  }
  if (sum) sum_delta(num_rows, sum);
  add_rows(layer.mlp.down_bias, nullptr, layer.post_mlp_norm, num_rows, x);
}

void Stage::add_sum_of_others(const float* bias, const float* post_norm, int num_rows, float* x,
                              const SumOverShards& sum) {
  std::fill_n(delta_.get(), int64_t(num_rows) * shape_.hidden_size, 0.0f);
  sum_delta(num_rows, sum);
  add_rows(bias, nullptr, post_norm, num_rows, x);
}

// The delta with its biases, norm and scale, added to the residual stream. Biases belong to the whole sum, once.
void Stage::add_rows(const float* bias, const float* more_bias, const float* post_norm, int num_rows, float* x) {
  const int width = shape_.hidden_size;
  each_rows(*pool_, num_rows, width, [&](int row) {
    float *to = x + int64_t(row) * width, *delta = delta_.get() + int64_t(row) * width;
    if (bias != nullptr) isa_.layers->add(bias, nullptr, width, delta);
    if (more_bias != nullptr) isa_.layers->add(more_bias, nullptr, width, delta);
    if (post_norm != nullptr) norm(delta, post_norm, nullptr, width, delta);
    isa_.layers->add_scaled(delta, shape_.residual_scale, width, to);
  });
}

void Stage::logits(const float* x, const int* rows, int num_rows, const StageHead& head, float* out) {
  require(num_rows <= shape_.max_rows, "more rows than the stage was made for");
  require(head.matrix->num_inputs == shape_.hidden_size, "the head must be [vocabulary, hidden size]");
  const ActivationRows normed =
      norm_rows(x, rows, num_rows, head.norm, head.norm_bias, !is_dense(*head.matrix));
  const int width = head.matrix->num_outputs;
  const Product product{head.matrix,       nullptr, head.bias, nullptr,    Finish::kStore,
                        shape_.activation, out,     width,   {0, num_rows}};
  run_products(*pool_, *isa_.gemm, normed, &product, 1);
  if (head.softcap <= 0.0f && head.scale == 1.0f) return;
  each_rows(*pool_, num_rows, width, [&](int row) {
    float* at = out + int64_t(row) * width;
    if (head.scale != 1.0f) isa_.layers->scale(head.scale, width, at);
    if (head.softcap > 0.0f) isa_.layers->softcap(head.softcap, width, at);
  });
}

}  // namespace shoal

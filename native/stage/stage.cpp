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
  const Matrix* all[] = {layer.q, layer.k, layer.v, layer.q_gate};
  return std::any_of(std::begin(all), std::end(all), [](const Matrix* one) { return one != nullptr && !is_dense(*one); });
}

bool mlp_needs_codes(const StageLayer& layer) {
  return layer.has_plain_mlp() ? needs_codes(layer.mlp) : needs_codes(*layer.experts);
}

bool has_adapters(const StageLayer& layer, AdapterPlace place) {
  const auto has = [place](const LayerAdapter& adapter) { return adapter.groups[int(place)].a != nullptr; };
  return std::any_of(layer.adapters.begin(), layer.adapters.end(), has);
}

bool mlp_needs_up(const StageLayer& layer) {
  if (!layer.has_plain_mlp()) return false;
  const bool is_changed = layer.gate_cut.has_value() || has_adapters(layer, AdapterPlace::kMlpIn);
  return needs_up(layer.mlp) || (layer.mlp.gate != nullptr && is_changed);
}

bool has_columns(const StageLayer& layer) { return layer.mlp.down != nullptr; }

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
  require(shape.hidden_size >= 1 && shape.max_rows >= 1 && shape.num_heads >= 0 && shape.intermediate_size >= 0,
          "sizes of a stage must be positive");
  const int hidden = shape.hidden_size;
  if (shape.latent && shape.num_heads > 0)
    latent_ = std::make_unique<LatentRunner>(pool_, isa_, *shape.latent, shape.num_heads, hidden, shape.max_rows,
                                             shape.exact_activations);
  if (shape.streams)
    streams_ = std::make_unique<Streams>(pool_, isa_, *shape.streams, hidden, shape.max_rows, shape.norm_epsilon,
                                         shape.exact_activations);
  if (shape.inputs)
    inputs_ = std::make_unique<LayerInputs>(pool_, isa_, *shape.inputs, hidden, shape.max_rows, shape.activation,
                                            shape.norm_epsilon, shape.exact_activations);
  for (const StageLayer& layer : layers_) check(layer);
  const auto any = [this](auto is_so) { return std::any_of(layers_.begin(), layers_.end(), is_so); };
  const size_t rows = shape.max_rows;
  normed_ = allocate<float>(rows * hidden);
  qkv_ = allocate<float>(rows * most_inputs());
  attention_ = allocate<float>(rows * most_outputs());
  delta_ = allocate<float>(rows * (hidden + 1));
  if (shape.carried_width() > hidden) hidden_ = allocate<float>(rows * hidden);
  if (any([](const StageLayer& layer) { return layer.q_gate != nullptr; }))
    gates_ = allocate<float>(rows * most_outputs());
  if (any([](const StageLayer& layer) { return layer.gate_cut.has_value(); })) {
    statistics_ = allocate<float>(rows * hidden);
    means_ = allocate<float>(rows);
  }
  if (any([](const StageLayer& layer) { return layer.expert_norms.has_value(); })) {
    routed_ = allocate<float>(rows * hidden);
    beside_ = allocate<float>(rows * hidden);
  }
  for (const StageLayer& layer : layers_)
    expert_rows_.emplace_back(layer.experts == nullptr ? 0 : shape.experts->router.num_experts);
  const std::vector<const ExpertLayer*> experts = experts_of(layers_);
  if (any([](const StageLayer& layer) { return layer.has_plain_mlp(); }))
    mlps_ = std::make_unique<MlpRunner>(
        pool_, isa_, shape.activation,
        MlpRunner::Limits{shape.max_rows, 1, shape.intermediate_size, any(mlp_needs_up), shape.exact_activations});
  if (!experts.empty())
    experts_ = std::make_unique<ExpertsRunner>(pool_, isa_, shape.activation, *shape.experts, hidden, shape.max_rows,
                                               shape.exact_activations, experts);
  std::vector<const LayerAdapters*> adapters;
  for (const StageLayer& layer : layers_)
    if (!layer.adapters.empty()) adapters.push_back(&layer.adapters);
  if (!adapters.empty()) adapters_ = std::make_unique<AdapterRunner>(pool_, isa_, shape.max_rows, adapters);
}

// Which products there are to add to: none of what is recurrent or an expert, and of latent attention the last.
void Stage::check_adapters(const StageLayer& layer) const {
  const bool has_heads = layer.attention != nullptr, has_inputs = has_heads && !shape_.latent;
  const bool has_mlp = layer.has_plain_mlp() && layer.experts == nullptr && has_columns(layer);
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
  if (layer.mlp.gate != nullptr || layer.mlp.up != nullptr || layer.mlp.down != nullptr) {
    require(has_columns(layer), "down must be [hidden size, columns]");
    require(layer.mlp.down->num_inputs <= shape_.intermediate_size, "an MLP has more columns than the stage");
    check_mlp(layer.mlp, shape_.hidden_size, layer.mlp.down->num_inputs);
  }
  require(has_both || !shape_.is_parallel, "a parallel layer has both of its halves");
  require(layer.experts == nullptr || shape_.experts.has_value(), "a layer has experts and the stage none");
  require(!has_both || shape_.is_parallel || (layer.attn_norm == nullptr) == (layer.mlp_norm == nullptr),
          "a layer has both of its norms or neither");
  require(!shape_.is_parallel || (layer.post_attn_norm == nullptr && layer.post_mlp_norm == nullptr),
          "a parallel layer has no norms behind its halves");
  require((layer.streams == nullptr) == !shape_.streams, "all layers have several streams or none");
  require(layer.input.has_value() == shape_.inputs.has_value(), "all layers have inputs of their own or none");
  require(!shape_.is_parallel || shape_.carried_width() == shape_.hidden_size, "rows of a parallel layer carry no more");
  if (layer.streams != nullptr) streams_->check(*layer.streams);
  if (layer.input) inputs_->check(*layer.input);
  if (layer.has_mixer) check_mixer(layer);
}

void Stage::check_mixer(const StageLayer& layer) const {
  if (layer.cross != nullptr) check_cross(*layer.cross);
  if (layer.recurrent != nullptr) return check_recurrent(layer);
  require((layer.attention == nullptr) == (shape_.num_heads == 0), "a layer with heads needs attention");
  if (shape_.num_heads > 0) check_attention(layer);
}

void Stage::check_attention(const StageLayer& layer) const {
  const int hidden = shape_.hidden_size;
  const LayerView& view = layer.attention->view();
  require(view.num_heads == shape_.num_heads, "attention must have the stage's heads");
  require((layer.latent == nullptr) == !shape_.latent, "all layers have latent attention or none");
  require(has_shape(layer.o, hidden, result_width(layer)), "o must be [hidden size, heads x head_dim]");
  if (layer.latent != nullptr) {
    require(view.num_kv_heads == 1 && view.head_dim == shape_.latent->rotary_dim + shape_.latent->latent_dim,
            "latent attention has one key head, of the rotated part and the latent");
    require(layer.q_gate == nullptr, "latent attention has no gate");
    return latent_->check(*layer.latent);
  }
  require(has_shape(layer.q, layer.q_width(), hidden), "q must be [heads x head_dim, hidden size]");
  require(layer.q_gate == nullptr || has_shape(layer.q_gate, layer.q_width(), hidden),
          "a gate must be [heads x head_dim, hidden size]");
  if (view.only_reads) return require(layer.k == nullptr && layer.v == nullptr, "k and v are another layer's");
  require(has_shape(layer.k, layer.kv_width(), hidden) &&
              (layer.v == nullptr || has_shape(layer.v, layer.kv_width(), hidden)),
          "k and v must be [kv heads x head_dim, hidden size]");
  require((layer.q_norm == nullptr) == (layer.k_norm == nullptr), "q and k must both have a norm or neither");
}

void Stage::check_cross(const CrossHalf& cross) const {
  const int hidden = shape_.hidden_size;
  require(!shape_.is_parallel && !shape_.latent && shape_.carried_width() == hidden && shape_.residual_scale == 1.0f,
          "a layer of this kind has no attention over an encoder's output");
  require(cross.attention != nullptr && cross.norm != nullptr, "attention over an encoder's output needs its norm");
  const int q_width = cross.attention->out_width(), kv_width = cross.attention->kv_width();
  require(has_shape(cross.q, q_width, hidden) && has_shape(cross.k, kv_width, hidden) &&
              has_shape(cross.v, kv_width, hidden) && has_shape(cross.o, hidden, q_width),
          "matrices over an encoder's output must have the sizes of the layer's own attention");
  require(cross.attention->view().num_heads == shape_.num_heads && cross.attention->view().sees_all,
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
  int most = 0;
  for (const StageLayer& layer : layers_) most = std::max(most, layer.qkv_width());
  for (const StageLayer& layer : layers_)
    if (layer.recurrent != nullptr && layer.recurrent->layer != nullptr)
      most = std::max(most, layer.recurrent->layer->in_width());
  return most;
}

int Stage::most_outputs() const {
  int most = 0;
  for (const StageLayer& layer : layers_) most = std::max({most, result_width(layer), layer.q_width()});
  for (const StageLayer& layer : layers_)
    if (layer.recurrent != nullptr && layer.recurrent->layer != nullptr)
      most = std::max(most, layer.recurrent->layer->out_width());
  return most;
}

ActivationRows Stage::norm_rows(const float* x, const int* rows, int num_rows, const float* weight, const float* bias,
                                bool has_codes, int64_t stride) {
  const int width = shape_.hidden_size;
  if (stride == 0) stride = width;
  const ActivationRows normed = codes_.of(normed_.get(), num_rows, width);
  each_rows(*pool_, num_rows, width, [&](int row) {
    const float* from = x + int64_t(rows == nullptr ? row : rows[row]) * stride;
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

void Stage::attend_memories(const CrossHalf& cross, float* x, StepMetadata& memories) {
  const int num_rows = memories.num_tokens(), width = cross.attention->qkv_width();
  const ActivationRows rows = norm_rows(x, nullptr, num_rows, cross.norm, cross.norm_bias, !is_dense(*cross.q));
  const Product product{cross.q,           nullptr,    cross.q_bias, nullptr, Finish::kStore,
                        shape_.activation, qkv_.get(), width,        {0, num_rows}};
  run_products(*pool_, *isa_.gemm, rows, &product, 1);
  cross.attention->attend(cross.attention->prepare(memories), {qkv_.get(), attention_.get(), width, cross.attention->out_width()});
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

void Stage::run(float* x, StepMetadata& step, StepMetadata* memories, const SumOverShards& sum) {
  const int num_rows = step.num_tokens(), width = shape_.hidden_size;
  require(num_rows <= shape_.max_rows, "the step has more rows than the stage was made for");
  require(memories == nullptr || memories->num_tokens() == num_rows, "memories must have the step's rows");
  if (!hidden_) {
    for (size_t i = 0; i < layers_.size(); ++i) run_layer(i, x, step, memories, sum);
    return;
  }
  copy_hidden(x, shape_.carried_width(), num_rows, hidden_.get(), width);
  for (size_t i = 0; i < layers_.size(); ++i) run_carried(i, x, hidden_.get(), step, sum);
  if (!streams_) copy_hidden(hidden_.get(), width, num_rows, x, shape_.carried_width());
}

void Stage::copy_hidden(const float* from, int64_t from_width, int num_rows, float* to, int64_t to_width) {
  each_rows(*pool_, num_rows, shape_.hidden_size,
            [&](int row) { std::copy_n(from + row * from_width, shape_.hidden_size, to + row * to_width); });
}

void Stage::run_layer(size_t index, float* x, StepMetadata& step, StepMetadata* memories, const SumOverShards& sum) {
  const StageLayer& layer = layers_[index];
  if (shape_.is_parallel) return run_parallel(index, x, step, sum);
  if (layer.has_mixer) layer.recurrent != nullptr ? recur(layer, x, step, sum) : attend(layer, x, step, sum);
  if (layer.cross != nullptr) {
    require(memories != nullptr && !sum, "a layer over an encoder's output needs it, and is not sharded");
    attend_memories(*layer.cross, x, *memories);
  }
  if (layer.has_mlp) feed_forward(index, x, step, sum);
  if (layer.scale == nullptr || hidden_) return;  // else it comes behind the layer's input
  each_rows(*pool_, step.num_tokens(), shape_.hidden_size, [&](int row) {
    isa_.layers->scale(*layer.scale, shape_.hidden_size, x + int64_t(row) * shape_.hidden_size);
  });
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

// The MLP goes first: attention's norm is not needed any more when the MLP has another, and attention's projection is
// added to what the MLP has stored.
void Stage::run_parallel(size_t index, float* x, StepMetadata& step, const SumOverShards& sum) {
  const StageLayer& layer = layers_[index];
  const int num_rows = step.num_tokens();
  const bool has_heads = shape_.num_heads > 0, has_mlp = layer.experts != nullptr || has_columns(layer);
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
    experts_->run(*layer.experts, rows, rows, step.view().positions, expert_rows_[index].data(), delta_.get());
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
  if (layer.q_norm != nullptr || layer.v_norm != nullptr || layer.v == nullptr) norm_heads(layer, num_rows);
  layer.attention->run(layer.attention->prepare(step), {qkv, attention_.get(), width, q_width});
  if (layer.q_gate == nullptr) return;
  each_rows(*pool_, num_rows, q_width, [&](int row) {
    float* gate = gates_.get() + int64_t(row) * q_width;
    isa_.layers->sigmoid(q_width, gate);
    isa_.layers->multiply(gate, q_width, attention_.get() + int64_t(row) * q_width);
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

// Values that are keys are taken from them before these have their norm.
void Stage::norm_heads(const StageLayer& layer, int num_rows) {
  const int dim = layer.attention->view().head_dim, q_width = layer.q_width(), kv_width = layer.kv_width();
  each_rows(*pool_, num_rows, layer.qkv_width(), [&](int row) {
    float *q = qkv_.get() + int64_t(row) * layer.qkv_width(), *k = q + q_width, *v = k + kv_width;
    if (layer.v == nullptr) std::copy_n(k, kv_width, v);
    if (shape_.joins_qk_norm) {
      norm(q, layer.q_norm, nullptr, q_width, q);
      norm(k, layer.k_norm, nullptr, kv_width, k);
      return;
    }
    const int step = shape_.parts_qk_norm ? 1 : 0;
    for (int at = 0; at < q_width && layer.q_norm != nullptr; at += dim)
      norm(q + at, layer.q_norm + at * step, nullptr, dim, q + at);
    for (int at = 0; at < kv_width && layer.k_norm != nullptr; at += dim)
      norm(k + at, layer.k_norm + at * step, nullptr, dim, k + at);
    for (int at = 0; at < kv_width && layer.v_norm != nullptr; at += dim)
      norm(v + at, layer.v_norm, nullptr, dim, v + at);
  });
}

void Stage::feed_forward(size_t index, float* x, const StepMetadata& step, const SumOverShards& sum) {
  const StageLayer& layer = layers_[index];
  const int num_rows = step.num_tokens();
  if (layer.expert_norms) return feed_beside(index, x, step, sum);
  if (layer.experts == nullptr && !has_columns(layer)) {
    if (layer.gate_cut) cut_gates(*layer.gate_cut, nullptr, num_rows, 0, sum);
    return add_sum_of_others(layer.mlp.down_bias, layer.post_mlp_norm, num_rows, x, sum);
  }
  const ActivationRows rows =
      norm_rows(x, nullptr, num_rows, layer.mlp_norm, layer.mlp_norm_bias, mlp_needs_codes(layer));
  Mlp mlp = layer.mlp;
  const MlpRows all{&mlp, {0, num_rows}};
  const StepAdapters adapters = adapters_of(layer, step);
  ChangeGates change;
  if (layer.gate_cut)
    change = [&](float* gates, int count, int columns) { cut_gates(*layer.gate_cut, gates, count, columns, sum); };
  if (layer.experts != nullptr) {
    experts_->run(*layer.experts, rows, rows, step.view().positions, expert_rows_[index].data(), delta_.get());
  } else if (adds_plainly(layer.post_mlp_norm, sum)) {
    return mlps_->run(rows, &all, 1, Finish::kAdd, x, adapters, change);
  } else {
    mlp.down_bias = nullptr;  // is added to the sum
    mlps_->run(rows, &all, 1, Finish::kStore, delta_.get(), adapters, change);
  }
  if (sum) sum_delta(num_rows, sum);
  add_rows(layer.mlp.down_bias, nullptr, layer.post_mlp_norm, num_rows, x);
}

void Stage::feed_beside(size_t index, float* x, const StepMetadata& step, const SumOverShards& sum) {
  const StageLayer& layer = layers_[index];
  const ExpertNorms& norms = *layer.expert_norms;
  const int num_rows = step.num_tokens(), width = shape_.hidden_size;
  std::fill_n(delta_.get(), int64_t(num_rows) * width, 0.0f);
  if (has_columns(layer)) {
    const MlpRows all{&layer.mlp, {0, num_rows}};
    mlps_->run(norm_rows(x, nullptr, num_rows, layer.mlp_norm, nullptr, needs_codes(layer.mlp)), &all, 1, Finish::kStore,
               delta_.get());
  }
  if (sum) sum_delta(num_rows, sum);
  norm_delta(norms.post_mlp, num_rows);
  std::copy_n(delta_.get(), int64_t(num_rows) * width, beside_.get());
  norm_rows(x, nullptr, num_rows, norms.router, nullptr, false);
  std::swap(normed_, routed_);
  const ActivationRows rows = norm_rows(x, nullptr, num_rows, norms.experts, nullptr, needs_codes(*layer.experts));
  const ActivationRows routed{num_rows, width, 0, routed_.get(), width, nullptr, nullptr, nullptr, {}, {}};
  experts_->run(*layer.experts, rows, routed, step.view().positions, expert_rows_[index].data(), delta_.get());
  if (sum) sum_delta(num_rows, sum);
  norm_delta(norms.post_experts, num_rows);
  add_rows(beside_.get(), layer.post_mlp_norm, num_rows, x);
}

void Stage::norm_delta(const float* weight, int num_rows) {
  const int width = shape_.hidden_size;
  each_rows(*pool_, num_rows, width, [&](int row) {
    float* at = delta_.get() + int64_t(row) * width;
    norm(at, weight, nullptr, width, at);
  });
}

template <typename Term>
void Stage::sum_gates(const float* gates, int num_rows, int num_columns, const SumOverShards& sum, const Term& term) {
  const int width = shape_.hidden_size;
  each_rows(*pool_, num_rows, std::max(width, num_columns), [&](int row) {
    float* to = statistics_.get() + int64_t(row) * width;
    std::fill_n(to, width, 0.0f);
    float sums[16] = {};  // side by side, as vectors have them
    for (int i = 0; i < num_columns; ++i) sums[i % 16] += term(row, gates[int64_t(row) * num_columns + i]);
    for (const float one : sums) *to += one;
  });
  if (sum) sum(statistics_.get(), size_t(num_rows) * width);
}

void Stage::cut_gates(const GateCut& cut, float* gates, int num_rows, int num_columns, const SumOverShards& sum) {
  const int width = shape_.hidden_size;
  const float count = float(cut.num_columns);
  sum_gates(gates, num_rows, num_columns, sum, [](int, float gate) { return gate; });
  for (int row = 0; row < num_rows; ++row) means_[row] = statistics_[int64_t(row) * width] / count;
  sum_gates(gates, num_rows, num_columns, sum, [&](int row, float gate) {
    const float off = gate - means_[row];
    return off * off;
  });
  each_rows(*pool_, num_rows, num_columns, [&](int row) {
    const float limit = means_[row] + std::sqrt(statistics_[int64_t(row) * width] / count) * cut.deviations;
    float* at = gates + int64_t(row) * num_columns;
    for (int i = 0; i < num_columns; ++i) at[i] = std::max(at[i] - limit, 0.0f);
  });
}

void Stage::add_sum_of_others(const float* bias, const float* post_norm, int num_rows, float* x,
                              const SumOverShards& sum) {
  require(bool(sum), "a layer without heads or columns must be a shard's");
  std::fill_n(delta_.get(), int64_t(num_rows) * shape_.hidden_size, 0.0f);
  sum_delta(num_rows, sum);
  add_rows(bias, nullptr, post_norm, num_rows, x);
}

// The delta and rows beside it.
void Stage::add_rows(const float* rows, const float* post_norm, int num_rows, float* x) {
  const int width = shape_.hidden_size;
  each_rows(*pool_, num_rows, width, [&](int row) {
    isa_.layers->add(rows + int64_t(row) * width, nullptr, width, delta_.get() + int64_t(row) * width);
  });
  add_rows(nullptr, nullptr, post_norm, num_rows, x);
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
      norm_rows(x, rows, num_rows, head.norm, head.norm_bias, !is_dense(*head.matrix), shape_.carried_width());
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

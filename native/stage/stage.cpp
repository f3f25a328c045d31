#include "stage.h"

#include <algorithm>

#include "../require.h"
#include "../threads/each_rows.h"
#include "layer_needs.h"

namespace shoal {

namespace {

bool has_adapters(const StageLayer& layer, AdapterPlace place) {
  const auto has = [place](const LayerAdapter& adapter) { return adapter.groups[int(place)].a != nullptr; };
  return std::any_of(layer.adapters.begin(), layer.adapters.end(), has);
}

bool mlp_needs_up(const StageLayer& layer) {
  if (!layer.has_plain_mlp()) return false;
  const bool is_changed = layer.gate_cut.has_value() || has_adapters(layer, AdapterPlace::kMlpIn);
  return needs_up(layer.mlp) || (layer.mlp.gate != nullptr && is_changed);
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

void Stage::run(float* x, StepMetadata& step, StepMetadata* memories, const SumOverShards& sum, float* queries,
                const std::vector<int32_t>* tails) {
  const int num_rows = step.num_tokens(), width = shape_.hidden_size;
  require(num_rows <= shape_.max_rows, "the step has more rows than the stage was made for");
  require(tails == nullptr || has_plain_end(), "all rows of the last layer are read");
  require(memories == nullptr || memories->num_tokens() == num_rows, "memories must have the step's rows");
  if (!hidden_) {
    const size_t num_whole = layers_.size() - (tails == nullptr ? 0 : 1);
    for (size_t i = 0; i < num_whole; ++i) {
      run_layer(i, x, step, memories, sum, queries);
      if (queries != nullptr && layers_[i].cross != nullptr)
        queries += int64_t(num_rows) * layers_[i].cross->attention->out_width();
      add_to_rows(i, step, x);
    }
    if (tails != nullptr) run_tails(x, step, *tails, sum);
    return;
  }
  require(step.added() == nullptr, "nothing can be added to rows that carry more than a hidden state");
  copy_hidden(x, shape_.carried_width(), num_rows, hidden_.get(), width);
  for (size_t i = 0; i < layers_.size(); ++i) run_carried(i, x, hidden_.get(), step, sum);
  if (!streams_) copy_hidden(hidden_.get(), width, num_rows, x, shape_.carried_width());
}

int64_t Stage::query_width() const {
  int64_t width = 0;
  for (const StageLayer& layer : layers_) width += layer.cross == nullptr ? 0 : layer.cross->attention->out_width();
  return width;
}

void Stage::add_to_rows(size_t index, const StepMetadata& step, float* x) {
  const AddedRows* added = step.added();
  if (added == nullptr || index >= size_t(added->num_layers)) return;
  require(added->width == shape_.hidden_size, "what is added must have the hidden size");
  const int width = added->width, num_rows = int(added->rows.size());
  const float* values = added->values.data() + int64_t(index) * num_rows * width;
  each_rows(*pool_, num_rows, width, [&](int i) {
    isa_.layers->add(values + int64_t(i) * width, nullptr, width, x + int64_t(added->rows[i]) * width);
  });
}

void Stage::run_layer(size_t index, float* x, StepMetadata& step, StepMetadata* memories, const SumOverShards& sum,
                      float* queries) {
  const StageLayer& layer = layers_[index];
  if (shape_.is_parallel) return run_parallel(index, x, step, sum);
  if (layer.has_mixer) layer.recurrent != nullptr ? recur(layer, x, step, sum) : attend(layer, x, step, sum);
  if (layer.cross != nullptr) {
    require(memories != nullptr && !sum, "a layer over an encoder's output needs it, and is not sharded");
    attend_memories(*layer.cross, x, *memories, queries);
  }
  if (layer.has_mlp) feed_forward(index, x, step, sum);
  if (layer.scale == nullptr || hidden_) return;  // otherwise it comes after the layer's input
  each_rows(*pool_, step.num_tokens(), shape_.hidden_size, [&](int row) {
    isa_.layers->scale(*layer.scale, shape_.hidden_size, x + int64_t(row) * shape_.hidden_size);
  });
}

// The MLP goes first: attention's norm is not needed any more if the MLP has another one, and attention's projection is
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
  mlp.down_bias = nullptr;  // it is added to the sum instead
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

StepAdapters Stage::adapters_of(const StageLayer& layer, const StepMetadata& step) {
  if (step.adapters().empty() || layer.adapters.empty()) return {};
  return {adapters_.get(), layer.adapters, step.adapters()};
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

void Stage::hidden(const float* x, const int* rows, int num_rows, const float* weight, const float* bias, float* out) {
  const int width = shape_.hidden_size;
  each_rows(*pool_, num_rows, width, [&](int row) {
    norm(x + rows[row] * shape_.carried_width(), weight, bias, width, out + int64_t(row) * width);
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

#include "experts.h"

#include <algorithm>
#include <cstring>

#include "../../require.h"
#include "../../threads/each_rows.h"

namespace shoal {

namespace {

template <typename T>
void copy_part(const T* from, T* to, int64_t from_row, int64_t to_row, int64_t width) {
  std::memcpy(to + to_row * width, from + from_row * width, width * sizeof(T));
}

// The codes of one row, as they are.
void copy_codes(const ActivationRows& from, int from_row, const ActivationRows& to, int to_row) {
  const int64_t blocks = from.num_blocks;
  copy_part(from.codes, to.codes, from_row, to_row, blocks * kBlockInputs);
  if (from.low_codes != nullptr) copy_part(from.low_codes, to.low_codes, from_row, to_row, blocks * kBlockInputs);
  copy_part(from.scales, to.scales, from_row, to_row, blocks);
  for (int i = 0; i < 2; ++i) {
    copy_part(from.sums[i], to.sums[i], from_row, to_row, blocks * (i + 1));
    copy_part(from.scaled_sums[i], to.scaled_sums[i], from_row, to_row, blocks * (i + 1));
  }
}

// The most experts that a layer of the shard holds.
int most_own(const std::vector<const ExpertLayer*>& layers) {
  size_t most = 0;
  for (const ExpertLayer* layer : layers) most = std::max(most, layer->experts.size());
  return int(most);
}

// A row times a factor. Its codes stay as they are.
void scale_row(const ActivationRows& rows, int row, float factor, bool has_codes, float* values) {
  const auto scale = [factor](float* x, int64_t count) {
    for (int64_t i = 0; i < count; ++i) x[i] *= factor;
  };
  const int64_t blocks = rows.num_blocks;
  if (has_codes) {
    scale(rows.scales + row * blocks, blocks);
    for (int i = 0; i < 2; ++i) scale(rows.scaled_sums[i] + row * blocks * (i + 1), blocks * (i + 1));
  }
  if (values != nullptr) scale(values + int64_t(row) * rows.num_inputs, rows.num_inputs);
}

bool is_router(const Matrix* matrix, int num_outputs, int hidden_size) {
  return matrix != nullptr && is_dense(*matrix) && matrix->num_outputs == num_outputs &&
         matrix->num_inputs == hidden_size;
}

}  // namespace

bool needs_codes(const ExpertLayer& layer) {
  const auto own = [](const Mlp& mlp) { return needs_codes(mlp); };
  return needs_codes(layer.shared) || std::any_of(layer.experts.begin(), layer.experts.end(), own);
}

ExpertsRunner::ExpertsRunner(std::shared_ptr<ThreadPool> pool, const Isa& isa, Activation activation,
                             const ExpertsShape& shape, int hidden_size, int max_rows, bool exact_activations,
                             const std::vector<const ExpertLayer*>& layers)
    : pool_(std::move(pool)),
      isa_(isa),
      shape_(shape),
      hidden_size_(hidden_size),
      codes_(max_rows * shape.router.num_chosen, hidden_size, exact_activations) {
  check_router(shape.router);
  require(shape.num_columns >= 0 && shape.num_shared_columns >= 0, "columns of experts must not be negative");
  for (const ExpertLayer* layer : layers) check(*layer);
  const int sorted_rows = max_rows * shape.router.num_chosen;
  const auto any_expert = [&layers](bool (*is_so)(const Mlp&)) {
    return std::any_of(layers.begin(), layers.end(), [is_so](const ExpertLayer* layer) {
      return std::any_of(layer->experts.begin(), layer->experts.end(), is_so);
    });
  };
  const auto any_shared_needs_up = [](const ExpertLayer* layer) { return needs_up(layer->shared); };
  mlps_ = std::make_unique<MlpRunner>(
      pool_, isa_, activation,
      MlpRunner::Limits{sorted_rows, most_own(layers), shape.num_columns, any_expert(needs_up), exact_activations});
  if (shape.num_shared_columns > 0)
    shared_ = std::make_unique<MlpRunner>(
        pool_, isa_, activation,
        MlpRunner::Limits{max_rows, 1, shape.num_shared_columns,
                          std::any_of(layers.begin(), layers.end(), any_shared_needs_up), exact_activations});
  const size_t scores = size_t(max_rows) * shape.router.num_experts;
  logits_ = allocate<float>(scores);
  ranks_ = allocate<float>(scores);
  weights_ = allocate<float>(sorted_rows);
  if (shape.scales_input) sorted_weights_ = allocate<float>(sorted_rows);
  chosen_ = allocate<int>(sorted_rows);
  places_ = allocate<int>(sorted_rows);
  tokens_ = allocate<int>(sorted_rows);
  sums_ = allocate<float>(size_t(sorted_rows) * hidden_size);
  if (any_expert(needs_values)) values_ = allocate<float>(size_t(sorted_rows) * hidden_size);
  shared_weights_ = allocate<float>(max_rows);
  own_of_.resize(shape.router.num_experts);
  spans_.resize(most_own(layers));
  groups_.reserve(spans_.size());
}

void ExpertsRunner::check(const ExpertLayer& layer) const {
  const int num_experts = shape_.router.num_experts;
  require(is_router(layer.router, num_experts, hidden_size_), "a router must be dense [experts, hidden size]");
  require(layer.experts.size() == layer.own.size(), "a layer must say which experts its own are");
  int before = -1;
  for (const ExpertTurns& own : layer.own) {
    require(own.expert > before && own.expert < num_experts, "a shard's experts must be among the layer's, in order");
    require(own.num_turns >= 1 && own.num_turns <= kMaxTurns, "an expert has 1 to 64 turns");
    before = own.expert;
  }
  if (shape_.num_columns > 0)
    for (const Mlp& mlp : layer.experts) check_mlp(mlp, hidden_size_, shape_.num_columns);
  if (shape_.num_shared_columns > 0) check_mlp(layer.shared, hidden_size_, shape_.num_shared_columns);
  require(layer.shared_router == nullptr || is_router(layer.shared_router, 1, hidden_size_),
          "a shared expert's router must be dense [1, hidden size]");
}

void ExpertsRunner::run(const ExpertLayer& layer, const ActivationRows& x, const ActivationRows& routed,
                        const int32_t* positions, int64_t* counts, float* out) {
  choose(layer, routed);
  sort_rows(layer, x.num_rows, positions, counts);
  int num_sorted = 0;
  groups_.clear();
  for (size_t i = 0; i < layer.experts.size(); ++i) {
    num_sorted += spans_[i].count;
    if (spans_[i].count > 0) groups_.push_back({&layer.experts[i], spans_[i]});
  }
  if (shape_.num_columns == 0) num_sorted = 0;  // a shard without columns adds nothing to the sum
  if (num_sorted > 0) {
    const ActivationRows sorted = codes_.of(values_.get(), num_sorted, hidden_size_);
    gather(layer, x, sorted);
    mlps_->run(sorted, groups_.data(), int(groups_.size()), Finish::kStore, sums_.get());
  }
  const int chosen = shape_.router.num_chosen;
  each_rows(*pool_, x.num_rows, hidden_size_ * chosen, [&](int row) {
    float* to = out + int64_t(row) * hidden_size_;
    std::fill_n(to, hidden_size_, 0.0f);
    for (int i = row * chosen; i < (row + 1) * chosen && num_sorted > 0; ++i)
      if (places_[i] >= 0)
        isa_.layers->add_scaled(sums_.get() + int64_t(places_[i]) * hidden_size_,
                                shape_.scales_input ? 1.0f : weights_[i], hidden_size_, to);
  });
  if (shared_) add_shared(layer, x, out);
}

void ExpertsRunner::choose(const ExpertLayer& layer, const ActivationRows& routed) {
  const int experts = shape_.router.num_experts, chosen = shape_.router.num_chosen;
  const RowSpan all{0, routed.num_rows};
  Product products[2] = {{layer.router, nullptr, layer.router_bias, nullptr, Finish::kStore, Activation::kSilu,
                          logits_.get(), experts, all}};
  if (layer.shared_router != nullptr)
    products[1] = {layer.shared_router, nullptr, nullptr, nullptr, Finish::kStore, Activation::kSilu,
                   shared_weights_.get(), 1, all};
  run_products(*pool_, *isa_.gemm, routed, products, layer.shared_router != nullptr ? 2 : 1);
  each_rows(*pool_, routed.num_rows, experts * chosen, [&](int row) {
    int* own = chosen_.get() + row * chosen;
    float* weights = weights_.get() + row * chosen;
    choose_experts(shape_.router, *isa_.layers, layer.selection_bias, logits_.get() + int64_t(row) * experts,
                   ranks_.get() + int64_t(row) * experts, own, weights);
    for (int i = 0; i < chosen && layer.scales != nullptr; ++i) weights[i] *= layer.scales[own[i]];
  });
}

// Rows of one expert follow each other, in the order of the step.
void ExpertsRunner::sort_rows(const ExpertLayer& layer, int num_rows, const int32_t* positions, int64_t* counts) {
  const int chosen = shape_.router.num_chosen, count = num_rows * chosen;
  std::fill(own_of_.begin(), own_of_.end(), -1);
  for (size_t i = 0; i < layer.own.size(); ++i) own_of_[layer.own[i].expert] = int(i);
  for (RowSpan& span : spans_) span.count = 0;
  const auto own = [&](int i) -> RowSpan* {
    const int place = own_of_[chosen_[i]];
    if (place < 0) return nullptr;
    const ExpertTurns& turns = layer.own[place];
    return turns.turns >> (positions[i / chosen] % turns.num_turns) & 1 ? &spans_[place] : nullptr;
  };
  for (int i = 0; i < count; ++i) {
    ++counts[chosen_[i]];
    if (RowSpan* span = own(i)) ++span->count;
  }
  int first = 0;
  for (RowSpan& span : spans_) {
    span.first = first;
    first += span.count;
    span.count = 0;
  }
  for (int i = 0; i < count; ++i) {
    RowSpan* span = own(i);
    places_[i] = span == nullptr ? -1 : span->first + span->count++;
    if (span == nullptr) continue;
    tokens_[places_[i]] = i / chosen;
    if (sorted_weights_) sorted_weights_[places_[i]] = weights_[i];
  }
}

void ExpertsRunner::gather(const ExpertLayer& layer, const ActivationRows& x, const ActivationRows& sorted) {
  const bool has_codes = needs_codes(layer);
  each_rows(*pool_, sorted.num_rows, hidden_size_, [&](int row) {
    if (has_codes) copy_codes(x, tokens_[row], sorted, row);
    if (values_) copy_part(x.values, values_.get(), tokens_[row], row, hidden_size_);
    if (sorted_weights_) scale_row(sorted, row, sorted_weights_[row], has_codes, values_.get());
  });
}

void ExpertsRunner::add_shared(const ExpertLayer& layer, const ActivationRows& x, float* out) {
  const MlpRows all{&layer.shared, {0, x.num_rows}};
  shared_->run(x, &all, 1, Finish::kStore, sums_.get());
  if (layer.shared_router != nullptr) isa_.layers->sigmoid(x.num_rows, shared_weights_.get());
  each_rows(*pool_, x.num_rows, hidden_size_, [&](int row) {
    const int64_t at = int64_t(row) * hidden_size_;
    const float weight = layer.shared_router != nullptr ? shared_weights_[row] : 1.0f;
    isa_.layers->add_scaled(sums_.get() + at, weight, hidden_size_, out + at);
  });
}

}  // namespace shoal

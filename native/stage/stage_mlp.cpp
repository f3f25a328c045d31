// The second half of a layer: its MLP, its experts, or both side by side.
#include <algorithm>
#include <cmath>

#include "../threads/each_rows.h"
#include "layer_needs.h"
#include "stage.h"

namespace shoal {

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
    mlp.down_bias = nullptr;  // it is added to the sum instead
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

}  // namespace shoal

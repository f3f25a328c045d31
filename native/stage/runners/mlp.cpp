#include "mlp.h"

#include <algorithm>

#include "../../require.h"
#include "../../threads/each_rows.h"

namespace shoal {

namespace {

bool has_shape(const Matrix* matrix, int num_outputs, int num_inputs) {
  return matrix != nullptr && matrix->num_outputs == num_outputs && matrix->num_inputs == num_inputs;
}

}  // namespace

void check_mlp(const Mlp& mlp, int hidden_size, int num_columns) {
  require((mlp.gate == nullptr || has_shape(mlp.gate, num_columns, hidden_size)) &&
              has_shape(mlp.up, num_columns, hidden_size),
          "gate and up must be [columns, hidden size]");
  require(has_shape(mlp.down, hidden_size, num_columns), "down must be [hidden size, columns]");
}

bool needs_codes(const Mlp& mlp) {
  return (mlp.gate != nullptr && !is_dense(*mlp.gate)) || (mlp.up != nullptr && !is_dense(*mlp.up));
}

bool needs_values(const Mlp& mlp) {
  return (mlp.gate != nullptr && is_dense(*mlp.gate)) || (mlp.up != nullptr && is_dense(*mlp.up));
}

bool needs_up(const Mlp& mlp) { return mlp.gate != nullptr && mlp.up != nullptr && !can_gate(*mlp.gate, *mlp.up); }

MlpRunner::MlpRunner(std::shared_ptr<ThreadPool> pool, const Isa& isa, Activation activation, const Limits& limits)
    : pool_(std::move(pool)),
      isa_(isa),
      activation_(activation),
      codes_(limits.max_rows, limits.max_columns, limits.exact_activations),
      hidden_(allocate<float>(size_t(limits.max_rows) * limits.max_columns)) {
  if (limits.needs_up) up_ = allocate<float>(size_t(limits.max_rows) * limits.max_columns);
  products_.reserve(2 * size_t(limits.max_mlps));
}

void MlpRunner::run(const ActivationRows& x, const MlpRows* mlps, int count, Finish finish, float* out,
                    const StepAdapters& adapters, const ChangeGates& change) {
  if (x.num_rows == 0 || count == 0) return;
  const int columns = mlps->mlp->down->num_inputs, width = mlps->mlp->down->num_outputs;
  multiply_up(x, mlps, count, columns, adapters, change);
  const ActivationRows hidden = codes_.of(hidden_.get(), x.num_rows, columns);
  const auto has_codes = [](const MlpRows& one) { return !is_dense(*one.mlp->down); };
  if (std::any_of(mlps, mlps + count, has_codes))
    each_rows(*pool_, x.num_rows, columns, [&](int row) { isa_.gemm->quantize(hidden, row, 1); });
  products_.clear();
  for (int i = 0; i < count; ++i) {
    const auto& [mlp, rows] = mlps[i];
    products_.push_back({mlp->down, nullptr, mlp->down_bias, nullptr, finish, activation_, out, width, rows});
  }
  adapters.append(AdapterPlace::kMlpOut, products_);
  run_products(*pool_, *isa_.gemm, hidden, products_.data(), int(products_.size()));
  const AdapterOutput output{out, width};
  adapters.add(AdapterPlace::kMlpOut, &output);
}

// hidden = activation(gate) * up
void MlpRunner::multiply_up(const ActivationRows& x, const MlpRows* mlps, int count, int columns,
                            const StepAdapters& adapters, const ChangeGates& change) {
  const bool is_gated = mlps->mlp->gate != nullptr, has_adapters = adapters.has(AdapterPlace::kMlpIn);
  const bool are_together = !has_adapters && !change && std::none_of(mlps, mlps + count, [](const MlpRows& one) {
    return needs_up(*one.mlp);
  });
  products_.clear();
  const auto add = [&](const Matrix* matrix, const Matrix* second, const float* bias, const float* second_bias,
                       Finish finish, float* to, RowSpan rows) {
    products_.push_back({matrix, second, bias, second_bias, finish, activation_, to, columns, rows});
  };
  for (int i = 0; i < count; ++i) {
    const auto& [mlp, rows] = mlps[i];
    if (!is_gated) {
      const Finish finish = has_adapters ? Finish::kStore : Finish::kActivate;
      add(mlp->up, nullptr, mlp->up_bias, nullptr, finish, hidden_.get(), rows);
    } else if (are_together) {
      add(mlp->gate, mlp->up, mlp->gate_bias, mlp->up_bias, Finish::kGate, hidden_.get(), rows);
    } else {
      add(mlp->gate, nullptr, mlp->gate_bias, nullptr, Finish::kStore, hidden_.get(), rows);
      add(mlp->up, nullptr, mlp->up_bias, nullptr, Finish::kStore, up_.get(), rows);
    }
  }
  adapters.append(AdapterPlace::kMlpIn, products_);
  run_products(*pool_, *isa_.gemm, x, products_.data(), int(products_.size()));
  if (is_gated ? are_together : !has_adapters) return;
  const AdapterOutput outputs[] = {{hidden_.get(), columns}, {is_gated ? up_.get() : hidden_.get(), columns}};
  adapters.add(AdapterPlace::kMlpIn, outputs);
  if (change) change(hidden_.get(), x.num_rows, columns);
  each_rows(*pool_, x.num_rows, columns, [&](int row) {
    float* gate = hidden_.get() + int64_t(row) * columns;
    if (!is_gated) return isa_.layers->activate(activation_, columns, gate);
    isa_.layers->gate(activation_, gate, up_.get() + int64_t(row) * columns, columns, gate);
  });
}

}  // namespace shoal

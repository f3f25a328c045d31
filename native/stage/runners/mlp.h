// MLPs: one that all rows go through, or several with some rows each.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "../../gemm/products.h"
#include "../../gemm/row_codes.h"
#include "../../isa/isa.h"
#include "../../memory/buffer.h"
#include "../../threads/thread_pool.h"
#include "adapters.h"

namespace shoal {

// down(activation(gate) * up), or without a gate down(activation(up)). Vectors that it does not have are nullptr.
struct Mlp {
  const Matrix *gate, *up, *down;
  const float *gate_bias, *up_bias, *down_bias;
};

// The rows that go through an MLP.
struct MlpRows {
  const Mlp* mlp;
  RowSpan rows;
};

// Throws std::invalid_argument if an MLP has other sizes.
void check_mlp(const Mlp& mlp, int hidden_size, int num_columns);

// Whether its first products read codes rather than values; false if a shard has no columns of it.
bool needs_codes(const Mlp& mlp);
bool needs_values(const Mlp& mlp);
// Whether its gate and up cannot be multiplied in one panel.
bool needs_up(const Mlp& mlp);

// Changes the products of a gate [rows, columns] before its activation.
using ChangeGates = std::function<void(float* gates, int num_rows, int num_columns)>;

class MlpRunner {
 public:
  struct Limits {
    int max_rows;
    int max_mlps;  // of one call
    int max_columns;
    bool needs_up;  // some gate and up cannot be multiplied in one panel, have adapters, or gates are changed
    bool exact_activations;
  };
  MlpRunner(std::shared_ptr<ThreadPool> pool, const Isa& isa, Activation activation, const Limits& limits);

  // out [rows, hidden size], added to its present content or not. `x` has its codes, unless everything is dense. Rows
  // of different MLPs must not overlap. Shapes: the MLPs of one call have the same. With adapters, there is one MLP.
  // `change` may be empty.
  void run(const ActivationRows& x, const MlpRows* mlps, int count, Finish finish, float* out,
           const StepAdapters& adapters = {}, const ChangeGates& change = {});

 private:
  void multiply_up(const ActivationRows& x, const MlpRows* mlps, int count, int columns, const StepAdapters& adapters,
                   const ChangeGates& change);

  std::shared_ptr<ThreadPool> pool_;
  const Isa& isa_;
  Activation activation_;
  RowCodes codes_;
  Buffer<float> hidden_, up_;
  std::vector<Product> products_;
};

}  // namespace shoal

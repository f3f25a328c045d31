#include "row_product.h"

#include "../../threads/each_rows.h"

namespace shoal {

RowProduct::RowProduct(std::shared_ptr<ThreadPool> pool, const Isa& isa, int max_rows, int max_inputs,
                       bool exact_activations)
    : pool_(std::move(pool)), isa_(isa), codes_(max_rows, max_inputs, exact_activations) {}

void RowProduct::run(const float* values, int64_t stride, int num_rows, const Matrix& matrix, Finish finish,
                     Activation activation, float* out, int64_t out_stride) const {
  ActivationRows rows = codes_.of(values, num_rows, matrix.num_inputs);
  rows.value_stride = stride;
  if (!is_dense(matrix))
    each_rows(*pool_, num_rows, matrix.num_inputs, [&](int row) { isa_.gemm->quantize(rows, row, 1); });
  const Product product{&matrix, nullptr, nullptr, nullptr, finish, activation, out, out_stride, {0, num_rows}};
  run_products(*pool_, *isa_.gemm, rows, &product, 1);
}

}  // namespace shoal

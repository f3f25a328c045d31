// One matrix, and rows that have no codes yet.
#pragma once

#include <memory>

#include "../../gemm/products.h"
#include "../../gemm/row_codes.h"
#include "../../isa/isa.h"

namespace shoal {

class RowProduct {
 public:
  // For rows of at most so many inputs.
  RowProduct(std::shared_ptr<ThreadPool> pool, const Isa& isa, int max_rows, int max_inputs, bool exact_activations);

  // out [rows, outputs] = activation(values W^T), where `finish` asks for one. Rows lie `stride` values apart.
  void run(const float* values, int64_t stride, int num_rows, const Matrix& matrix, Finish finish, Activation activation,
           float* out, int64_t out_stride) const;

 private:
  std::shared_ptr<ThreadPool> pool_;
  const Isa& isa_;
  RowCodes codes_;
};

}  // namespace shoal

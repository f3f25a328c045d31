// Memory for the codes of rows that are multiplied by block-quantized matrices.
#pragma once

#include "../memory/buffer.h"
#include "args.h"

namespace shoal {

class RowCodes {
 public:
  // For at most so many rows of so many inputs. Throws std::bad_alloc.
  RowCodes(int max_rows, int max_inputs, bool exact_activations) {
    const size_t blocks = size_t(max_rows) * blocks_of(max_inputs);
    codes_ = allocate<int8_t>(blocks * kBlockInputs);
    if (exact_activations) low_codes_ = allocate<int8_t>(blocks * kBlockInputs);
    scales_ = allocate<float>(blocks);
    for (int i = 0; i < 2; ++i) {
      sums_[i] = allocate<int32_t>(blocks * (i + 1));
      scaled_sums_[i] = allocate<float>(blocks * (i + 1));
    }
  }

  // Rows with these values, whose codes are not written yet. Valid until the next rows replace them.
  ActivationRows of(const float* values, int num_rows, int num_inputs) const {
    return {num_rows,
            num_inputs,
            blocks_of(num_inputs),
            values,
            num_inputs,
            codes_.get(),
            low_codes_.get(),
            scales_.get(),
            {sums_[0].get(), sums_[1].get()},
            {scaled_sums_[0].get(), scaled_sums_[1].get()}};
  }

 private:
  static int blocks_of(int num_inputs) { return (num_inputs + kBlockInputs - 1) / kBlockInputs; }

  Buffer<int8_t> codes_, low_codes_;
  Buffer<float> scales_, scaled_sums_[2];
  Buffer<int32_t> sums_[2];
};

}  // namespace shoal

// Where the arrays of a packed matrix begin. See matrix.h.
#pragma once

#include "../matrix.h"

namespace shoal {

struct MatrixLayout {
  size_t codes, scales, fine_scales, offsets, fine_offsets;  // first bytes
  size_t num_bytes;                                          // of all: a multiple of 64
};

// Throws std::invalid_argument for a matrix that cannot be.
MatrixLayout matrix_layout(const Matrix& matrix);

// Points a matrix into its bytes, which begin at a multiple of 64.
void attach(Matrix& matrix, const uint8_t* bytes);

}  // namespace shoal

// Offsets of the arrays of a packed matrix. See matrix.h.
#pragma once

#include "../matrix.h"

namespace shoal {

struct MatrixLayout {
  size_t codes, scales, fine_scales, offsets, fine_offsets;  // offset of each array's first byte
  size_t num_bytes;                                          // of all: a multiple of 64
};

// Throws std::invalid_argument for an impossible matrix.
MatrixLayout matrix_layout(const Matrix& matrix);

// Sets a matrix's pointers into its bytes, which begin at a multiple of 64.
void attach(Matrix& matrix, const uint8_t* bytes);

}  // namespace shoal

// Rows of a packed matrix as fp32 numbers, as a token's embedding is read.
#pragma once

#include "../matrix.h"

namespace shoal {

// The num_inputs weights of an output: scale * (code - zero_point) rounded to fp32, then + offset rounded to fp32. The
// factors are exact: a scale or an offset of a super-block is a product of 11 by 8 bits. So the bits are those of
// GGML's own arithmetic (ggml-quants.c, dequantize_row_*), and the same on every processor.
void unpack_row(const Matrix& matrix, int output, float* values);

}  // namespace shoal

// Writes weights in the layout of matrix.h, tile by tile and tiles in parallel, with temporaries of one tile's block.
#pragma once

#include "../../threads/thread_pool.h"
#include "gguf_kinds.h"

namespace shoal {

// Rows of a GGUF tensor, as they lie in its file.
struct GgufRows {
  const uint8_t* bytes;
  size_t row_bytes;
  const int32_t* order;  // output i is row order[i]; null: row i
  int first_input;       // of each row
};

// Outputs whose tiles are written: from the first output of a tile to the end of a tile or of the matrix.
struct OutputSpan {
  int first;
  int count;
};

// Blocks of 32 with unsigned codes in the order of ONNX Runtime's MatMulNBits: of 4 bits two to a byte, the first in the
// low nibble, or of 8 bits; scale * (code - 8 or 128) + offset.
struct BlockArrays {
  int bits;
  const uint8_t* codes;  // [N, K / 32, 4 * bits]
  const float* scales;   // [N, K / 32]
  const float* offsets;  // the same, or null
};

// Coded floats, a code a byte.
struct CodedArrays {
  const uint8_t* codes;        // [N, K]
  const float* scales;         // [N, parts]
  const uint8_t* zero_points;  // the same, or null
  const int32_t* groups;       // [K]: the scale of each input of grouped codes; null for others
};

// `matrix` is the `gguf_form`, attached to `out`.
void pack_gguf(ThreadPool& pool, const Matrix& matrix, const GgufKind& kind, const GgufRows& rows, uint8_t* out);

// `matrix` is the `blocks_form`, attached to `out`. Values that are held as fp16 or bfloat16 must be such numbers, and
// an offset that is held as a zero point must be a multiple of its scale. The blocks are only those of the span.
void pack_blocks(ThreadPool& pool, const Matrix& matrix, OutputSpan span, const BlockArrays& blocks, uint8_t* out);

// `matrix` is the `coded_form`, attached to `out`.
void pack_coded(ThreadPool& pool, const Matrix& matrix, const CodedArrays& arrays, uint8_t* out);

// The zero point z for which scale * (middle - z) is the offset; -1 if there is none.
int zero_point_of(const Matrix& matrix, float scale, float offset);

// The form of such blocks: `scales` are kHalf, kFloat or kBrain, `offsets` too, or kZeroPoints, or kNone. Throws
// std::invalid_argument.
Matrix blocks_form(int bits, int num_outputs, int num_inputs, Scales scales, Scales offsets);

}  // namespace shoal

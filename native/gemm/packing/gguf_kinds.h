// The kinds of GGUF tensors whose own values are packed, and how a block of 32 inputs of each is read.
#pragma once

#include "../matrix.h"

namespace shoal {

// One row's 32 inputs of a block, in packed form, before sixteen rows are interleaved to a tile.
struct BlockFields {
  uint8_t codes[kBlockInputs];  // one a byte
  uint32_t scale;               // the bits of an fp16 or fp32 number, or an exponent; of the block or its super-block
  uint32_t offset;
  uint8_t fine_scales[2];       // of the block's parts
  uint8_t fine_offsets[2];
};

struct GgufKind {
  int32_t number;  // GGML's. Source: enum ggml_type in ggml.h
  int block_inputs;
  int block_bytes;
  Matrix form;  // without sizes
  // Reads inputs [32 sub, 32 sub + 32) of a block of the file. Null for dense kinds.
  void (*read)(const uint8_t* block, int sub, BlockFields& fields);
};

// Throws std::invalid_argument for a kind without a packed form of its own.
const GgufKind& find_gguf_kind(int number);

// The form of some inputs of a matrix of that kind. Throws std::invalid_argument if they cut a block of 32.
Matrix gguf_form(const GgufKind& kind, int num_outputs, int num_inputs, int first_input);

}  // namespace shoal
